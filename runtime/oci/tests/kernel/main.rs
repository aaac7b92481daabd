//! Containers on the running kernel: what a program finds inside, and that nothing is left behind.
//!
//! Needs root and a static busybox; without them each test says so and passes. One test after the other on the main thread,
//! since a launch clones the process.

mod containers;
mod filters;
mod mounts;
mod pods;
mod support;
mod users;

use libtest_mimic::{Arguments, Failed, Trial};

type Test = (&'static str, fn());

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let missing = support::missing();
    if missing.is_none() {
        // What is looked up once and kept (the hierarchies, a private procfs) is there before descriptors are counted.
        containers::warm_up();
    }
    let tests: Vec<Test> = containers::TESTS
        .iter()
        .chain(filters::TESTS)
        .chain(pods::TESTS)
        .chain(mounts::TESTS)
        .chain(users::TESTS)
        .copied()
        .collect();
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            let missing = missing.clone();
            Trial::test(name, move || match missing {
                Some(reason) => {
                    eprintln!("skipped: {reason}");
                    Ok(())
                }
                None => support::guarded(test).map_err(Failed::from),
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
