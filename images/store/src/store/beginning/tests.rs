//! Which beginnings stay.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use super::super::tests::Fixture;
use super::{BEGINNING_AGE_MAX, BEGINNINGS_BYTES_MAX, BEGINNINGS_MAX, Begun};
use crate::digest::Digest;
use crate::testing::{Tar, names, root_or_skip};

const GIB: u64 = 1024 * 1024 * 1024;

/// A store that finds these beginnings: a word that gives the digest, the length in bytes, the age.
fn left(beginnings: &[(&str, u64, Duration)]) -> Fixture {
    let fixture = Fixture::new();
    for (word, bytes, age) in beginnings {
        let path = fixture.path("partial").join(Digest::of(word.as_bytes()).hex());
        let file = fs::File::create(&path).unwrap();
        file.set_len(*bytes).unwrap();
        file.set_modified(SystemTime::now() - *age).unwrap();
    }
    fixture.reopened()
}

fn check(beginnings: &[(&str, u64, Duration)], stay: &[&str]) {
    let fixture = left(beginnings);
    fixture.store.collect().unwrap();
    let there: BTreeSet<String> = names(&fixture.path("partial")).into_iter().collect();
    assert_eq!(there, stay.iter().map(|word| Digest::of(word.as_bytes()).hex()).collect(), "{beginnings:?}");
    let bytes: u64 = beginnings.iter().filter(|(word, ..)| stay.contains(word)).map(|(_word, bytes, _age)| bytes).sum();
    assert_eq!(fixture.store.usage().bytes, bytes, "{beginnings:?}");
}

#[test]
fn fresh_ones_stay_while_there_is_room() {
    if !root_or_skip("fresh_ones_stay_while_there_is_room") {
        return;
    }
    let minute = Duration::from_secs(60);
    check(&[("a", 300_000, Duration::ZERO), ("b", 300_000, BEGINNING_AGE_MAX - minute)], &["a", "b"]);
    check(&[("a", 300_000, Duration::ZERO), ("b", 300_000, BEGINNING_AGE_MAX + minute)], &["a"]);
    // The oldest go first.
    let part = BEGINNINGS_BYTES_MAX - GIB;
    check(&[("a", part, 2 * minute), ("b", part, minute), ("c", GIB, Duration::ZERO)], &["b", "c"]);
    check(&[("a", BEGINNINGS_BYTES_MAX + 1, Duration::ZERO)], &[]);
}

#[test]
fn removing_another_image_leaves_a_beginning_to_be_gone_on_with() {
    if !root_or_skip("removing_another_image_leaves_a_beginning_to_be_gone_on_with") {
        return;
    }
    let fixture = left(&[("a", 700_000, Duration::ZERO)]);
    let image = fixture.image(&[Tar::default().file("f", b"x").raw(&[0; 1024]).0], &["registry.test/other:1"]);
    fixture.store.remove(&image).unwrap();
    let begun = fixture.store.begin(Digest::of(b"a"), 1_000_000).yours().unwrap();
    assert_eq!(begun.bytes(), 700_000);
    // Nor is one taken away that somebody is at.
    assert_eq!(fixture.store.discard_beginnings(), 0);
    assert_eq!(names(&fixture.path("partial")).len(), 1);
}

#[test]
fn the_oldest_makes_place_for_one_more() {
    if !root_or_skip("the_oldest_makes_place_for_one_more") {
        return;
    }
    let words: Vec<String> = (0..BEGINNINGS_MAX).map(|number| number.to_string()).collect();
    let age = |number: usize| Duration::from_secs(u64::try_from(number).unwrap());
    let all: Vec<_> = words.iter().enumerate().map(|(n, word)| (word.as_str(), 300_000, age(n))).collect();
    let fixture = left(&all);
    let mut begun = vec![fixture.store.begin(Digest::of(b"new"), 1).yours().unwrap()];
    let oldest = Digest::of(words.last().unwrap().as_bytes());
    let there = names(&fixture.path("partial"));
    assert_eq!((there.len(), there.contains(&oldest.hex())), (BEGINNINGS_MAX - 1, false));
    // And who finds everybody at work needn't wait.
    for word in words.iter().take(BEGINNINGS_MAX - 1) {
        begun.push(fixture.store.begin(Digest::of(word.as_bytes()), 300_000).yours().unwrap());
    }
    assert!(matches!(fixture.store.begin(Digest::of(b"more"), 1), Begun::TooMany));
    assert!(matches!(fixture.store.begin(Digest::of(b"new"), 1), Begun::Taken));
}
