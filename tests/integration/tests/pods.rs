//! Pods on the real kernel through CRI: one program, one node for most tests, the leak ledger at the end.
//!
//! A test is `async fn(World) -> Outcome`, listed in [`TESTS`]. Run all: `cargo test -p tests-integration --test pods`;
//! one: add its name.

#![expect(clippy::print_stdout, reason = "a test program says what it skips")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use tests_integration::client::Sandbox;
use tests_integration::image::{self, Dialect, Packing};
use tests_integration::{Client, Ledger, Node, Options, Outcome, machine};

#[path = "pods/container.rs"]
mod container;
#[path = "pods/crash.rs"]
mod crash;
#[path = "pods/images.rs"]
mod images;
#[path = "pods/isolation.rs"]
mod isolation;
#[path = "pods/network.rs"]
mod network;
#[path = "pods/tools.rs"]
mod tools;

/// The image that most tests run.
const BUSYBOX: &str = "podwright.test/busybox:1";

/// What the tests share.
struct World {
    node: Node,
    client: Client,
}

impl World {
    async fn new() -> anyhow::Result<World> {
        let node = Node::start(Options::default()).await?;
        let busybox = image::image(Dialect::Oci, &[(Packing::Gzip, image::busybox()?)], &["/bin/sh"])?;
        node.import(&image::archive(&busybox, BUSYBOX)?, BUSYBOX)?;
        let client = node.client().await?;
        Ok(World { node, client })
    }

    /// A pod's configuration with its logs in the node's scratch directory.
    fn pod(&self, name: &str) -> runtime_cri_api::v1::PodSandboxConfig {
        tests_integration::client::pod(name, &self.node.scratch().join("logs"))
    }

    /// A running sandbox.
    async fn sandbox(&self, name: &str) -> anyhow::Result<Sandbox> {
        self.client.run(self.pod(name)).await
    }

    /// A container's log, as it lies on disk.
    fn log(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let path = self.node.scratch().join("logs").join(pod).join(format!("{container}.log"));
        Ok(std::fs::read_to_string(path)?)
    }
}

type Test = fn(Arc<World>) -> futures_util::future::BoxFuture<'static, Outcome>;

macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        const TESTS: &[(&str, Test)] = &[$($((concat!(stringify!($module), "::", stringify!($name)), |world| Box::pin($module::$name(world))),)*)*];
    };
}

tests! {
    container: a_container_without_network_runs_and_logs
        its_exit_code_and_signal_are_reported
        a_command_that_does_not_exist_fails_at_start
        out_of_memory_is_told
        stop_waits_for_the_grace_and_then_kills
        stop_and_remove_can_be_repeated
        long_lines_are_split_at_16_kib
        exec_brings_output_and_code
        exec_ends_at_its_deadline_with_all_it_started
        a_background_child_does_not_hold_an_exec
        a_missing_sandbox_or_image_is_named
        the_same_sandbox_is_not_made_twice
        working_directory_environment_and_user_come_from_image_and_request
        calls_to_come_are_unimplemented_by_name;
    isolation: namespaces_are_its_own
        capabilities_filter_and_no_new_privileges
        masked_and_read_only_paths
        devices_are_the_default_ones
        no_descriptor_is_inherited
        the_network_files_are_there
        limits_are_set_before_the_first_instruction
        the_pause_process_holds_nothing
        a_hostile_root_leads_nowhere;
    network: pods_reach_each_other_the_host_and_back
        a_host_port_answers_on_loopback_and_on_the_host
        a_host_port_in_use_is_named
        loopback_of_the_host_stays_its_own
        a_forward_policy_of_drop_does_not_stop_pods
        nothing_is_left_when_the_pod_is_gone;
    images: every_packing_and_dialect_from_a_registry
        an_image_survives_export_and_import
        a_registry_that_is_down_is_named
        an_image_that_is_not_there_is_named
        whiteouts_and_links_hold_in_the_container
        a_full_disk_is_named_and_nothing_stays;
    crash: the_daemon_dies_twenty_times
        a_supervisor_that_dies_takes_its_pod_along_and_is_told;
    tools: crictl_walks_the_whole_way
        hello_runs_and_ends_without_a_trace
        hello_detached_is_reached_by_the_verbs
        liveness_restarts_and_readiness_does_not
        bad_input_gets_one_message
        a_missing_kernel_feature_is_named
        the_keeper_alone_keeps_a_directory;
}

/// Tests that this machine can't make, and what it lacks.
fn lacking() -> Vec<(&'static str, &'static str)> {
    let mut lacking = Vec::new();
    if tools::crictl().is_none() {
        lacking.push((
            "tools::crictl_walks_the_whole_way",
            "no crictl on PATH (tests/integration/run builds it where Go 1.26 is)",
        ));
    }
    if machine::find("docker-registry").is_none() {
        lacking.push((
            "images::every_packing_and_dialect_from_a_registry",
            "no docker-registry (apt-get install docker-registry)",
        ));
        lacking.push((
            "images::an_image_that_is_not_there_is_named",
            "no docker-registry (apt-get install docker-registry)",
        ));
    }
    if machine::find("strace").is_none() {
        lacking.push(("tools::a_missing_kernel_feature_is_named", "no strace (apt-get install strace)"));
    }
    if machine::find("iptables-nft").is_none() {
        lacking.push((
            "network::a_forward_policy_of_drop_does_not_stop_pods",
            "no iptables-nft (apt-get install iptables)",
        ));
    }
    lacking
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Some(obstacle) = machine::obstacle().filter(|_| !arguments.list) {
        println!("skipped: {obstacle}");
        return libtest_mimic::run(&arguments, Vec::new()).exit_code();
    }
    if !arguments.list
        && let Err(error) = machine::enter_private_network()
    {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("no tokio runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.list {
        let trials = TESTS.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let before = Ledger::take();
    let world = match runtime.block_on(World::new()) {
        Ok(world) => Arc::new(world),
        Err(error) => {
            eprintln!("no node to test: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let lacking = lacking();
    for (name, why) in &lacking {
        println!("skipped: {name}: {why}");
    }
    let trials = TESTS
        .iter()
        .map(|(name, test)| {
            let lacks = lacking.iter().any(|(lacking, _)| lacking == name);
            let (runtime, world, test) = (Arc::clone(&runtime), Arc::clone(&world), *test);
            Trial::test(*name, move || {
                let limited = async move { tokio::time::timeout(Duration::from_secs(180), test(world)).await };
                match runtime.block_on(limited) {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(format!("{error:#}").into()),
                    Err(_) => Err("not done within 180 s".into()),
                }
            })
            .with_ignored_flag(lacks)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.num_failed > 0 {
        eprintln!("--- the node said:\n{}", world.node.log());
    }
    drop(Arc::into_inner(world));
    let left = runtime.block_on(Ledger::settle(&before, Duration::from_secs(10)));
    for row in &left {
        eprintln!("leak: {row}");
    }
    if left.is_empty() { conclusion.exit_code() } else { ExitCode::FAILURE }
}
