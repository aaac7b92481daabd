//! critest against a node of its own: the images that the suite names, its run, and what it reported.

pub mod images;
pub mod suite;
