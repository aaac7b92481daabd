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

#[path = "pods/anonymous.rs"]
mod anonymous;
#[path = "pods/container.rs"]
mod container;
#[path = "pods/crash.rs"]
mod crash;
#[path = "pods/crictl.rs"]
mod crictl;
#[path = "pods/devices.rs"]
mod devices;
#[path = "pods/events.rs"]
mod events;
#[path = "pods/exec.rs"]
mod exec;
#[path = "pods/idempotence.rs"]
mod idempotence;
#[path = "pods/images.rs"]
mod images;
#[path = "pods/isolation.rs"]
mod isolation;
#[path = "pods/lists.rs"]
mod lists;
#[path = "pods/mounts.rs"]
mod mounts;
#[path = "pods/network.rs"]
mod network;
#[path = "pods/registries.rs"]
mod registries;
#[path = "pods/resources.rs"]
mod resources;
#[path = "pods/security.rs"]
mod security;
#[path = "pods/stats.rs"]
mod stats;
#[path = "pods/streaming.rs"]
mod streaming;
#[path = "pods/tools.rs"]
mod tools;
#[path = "pods/userns.rs"]
mod userns;
#[path = "pods/verbs.rs"]
mod verbs;

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
    anonymous: an_images_volumes_are_fresh_writable_and_gone_with_the_container
        an_images_volumes_are_the_pods_in_a_user_namespace;
    container: a_container_without_network_runs_and_logs
        its_exit_code_and_signal_are_reported
        a_command_that_does_not_exist_fails_at_start
        out_of_memory_is_told
        out_of_memory_of_a_child_is_told_with_the_first_ones_code
        stop_waits_for_the_grace_and_then_kills
        the_stop_signal_is_the_one_asked_for_and_told
        name_and_resolver_are_the_pods
        stop_and_remove_can_be_repeated
        long_lines_are_split_at_16_kib
        exec_brings_output_and_code
        exec_ends_at_its_deadline_with_all_it_started
        a_background_child_does_not_hold_an_exec
        a_missing_sandbox_or_image_is_named
        the_same_sandbox_is_not_made_twice
        working_directory_environment_and_user_come_from_image_and_request
        checkpoint_and_restore_are_refused_with_the_reason;
    exec: its_output_is_cut_at_16_mib_each_and_that_is_told
        its_daemons_die_with_it
        it_has_a_leaf_that_no_statistics_see
        the_log_of_what_has_ended_is_not_made_anew
        wrong_requests_for_streams_are_named;
    isolation: namespaces_are_its_own
        capabilities_filter_and_no_new_privileges
        masked_and_read_only_paths
        devices_are_the_default_ones
        no_descriptor_is_inherited
        the_network_files_are_there
        limits_are_set_before_the_first_instruction
        the_pause_process_holds_nothing
        a_sandboxs_own_process_is_the_same_whatever_is_asked_of_it
        a_hostile_root_leads_nowhere;
    security: a_profile_of_the_host_is_kept
        capabilities_are_exactly_those
        users_and_groups_are_the_images_or_the_requests
        paths_are_masked_as_asked
        resource_limits_are_the_stated_ones
        kernel_parameters_are_set_or_named
        a_security_module_that_is_off_is_named
        errors_have_their_code_and_say_what_to_do
        secrets_are_never_in_the_log;
    idempotence: a_storm_of_one_sandbox_makes_one
        a_storm_of_one_container_makes_one
        stop_remove_and_start_in_parallel
        stopping_what_is_not_there_is_good
        a_request_repeated_over_the_daemons_death_is_one;
    mounts: mount_options_hold
        later_mounts_propagate_as_asked
        read_only_is_recursive_when_asked
        mounts_nest_and_mismatches_are_named
        a_source_must_stay_what_it_was
        a_read_only_root_leaves_volumes_writable
        variables_are_bytes
        an_image_is_a_volume
        a_part_of_an_image_is_a_volume_in_a_user_namespace
        huge_pages_are_a_volume_like_others;
    devices: devices_are_as_allowed
        a_privileged_container_has_all_devices
        devices_by_name;
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
    crictl: version_and_info_tell_who_serves
        config_and_completion_need_no_node
        runtime_config_tells_the_driver_and_takes_a_pod_network
        images_are_pulled_listed_inspected_and_removed
        imagefsinfo_tells_what_images_take
        a_sandbox_is_run_listed_inspected_stopped_and_removed
        a_container_is_created_started_listed_inspected_stopped_and_removed
        run_makes_both_at_once
        logs_are_cut_followed_and_dated
        exec_brings_output_and_code_over_both_transports
        exec_on_a_terminal_has_its_size_and_ends_with_exit
        a_folder_is_copied_in_and_out_by_tar
        attach_reads_and_writes
        port_forward_reaches_a_server_in_the_pod
        stats_of_containers_and_pods_count
        metrics_have_descriptors_and_values
        events_tell_a_container_s_life
        update_changes_limits_and_inspect_tells_them
        checkpoint_is_refused_with_its_reason;
    registries: a_password_is_asked_for_and_each_failure_has_its_words
        tokens_come_from_the_realm_and_end
        an_authority_and_a_client_certificate_of_our_own
        mirrors_are_asked_in_their_order
        the_environment_s_proxy_is_used
        a_busy_registry_and_broken_bodies_are_borne
        a_pull_goes_on_after_the_daemon_was_killed
        a_pull_ends_with_its_last_client
        what_is_no_image_for_this_machine_is_named
        an_image_has_one_id_and_goes_with_all_its_names;
    stats: what_a_container_does_is_counted
        a_pod_is_told_as_a_whole
        pods_in_one_cgroup_are_told_apart
        metrics_fit_their_descriptors
        metrics_are_those_of_a_kubelets_cadvisor
        file_systems_of_images_and_layers_are_told_apart
        a_list_of_many_is_told_in_milliseconds;
    resources: limits_change_while_it_runs_and_what_is_not_named_stays
        less_memory_than_is_used_is_refused_and_nothing_changes
        a_pod_s_limits_are_noted_and_written_where_the_cgroup_is_ours
        new_limits_outlive_the_daemon
        huge_pages_that_cannot_be_limited_are_named
        huge_pages_are_limited_where_the_machine_can
        memory_and_swap_are_limited_together;
    events: a_hundred_containers_are_told_in_order
        a_program_that_cannot_be_started_is_told_as_stopped_and_never_as_started;
    lists: streams_bring_what_lists_bring
        labels_and_annotations_are_told_as_they_were_given;
    streaming: exec_tells_output_and_code
        a_url_is_good_for_one_client_on_loopback
        a_terminal_gets_its_size_and_what_is_typed
        bytes_both_ways_arrive_as_they_were_sent
        a_client_that_is_killed_takes_its_command_along
        a_client_that_stops_reading_holds_up_nobody_else
        attach_joins_and_leaves
        attach_once_ends_input_and_tells_the_end
        port_forward_carries_many_connections
        an_escaped_path_as_authority;
    tools: hello_runs_and_ends_without_a_trace
        hello_detached_is_reached_by_the_verbs
        liveness_restarts_and_readiness_does_not
        bad_input_gets_one_message
        a_missing_kernel_feature_is_named
        the_keeper_alone_keeps_a_directory;
    userns: root_inside_is_nobody_outside
        status_announces_it
        what_it_writes_has_mapped_owners_and_the_image_stays
        volumes_are_mapped_where_the_mount_says_so
        a_terminal_is_its_users
        a_volume_that_cannot_be_mapped_is_named
        the_pods_own_files_and_network_work
        sysctls_are_set_in_its_own_namespaces
        the_host_is_out_of_reach
        users_of_the_container_and_execs
        what_cannot_be_is_refused_with_a_sentence
        it_outlives_the_daemon
        a_shared_process_namespace_and_a_read_only_root
        a_container_sees_its_targets_processes
        a_container_may_join_or_leave_the_pods_processes;
    verbs: exec_passes_streams_and_code_on
        exec_ends_with_its_time_and_its_signal_and_errors_are_a_sentence
        exec_on_a_terminal_is_raw_resized_and_restored
        attach_joins_pipes_and_terminals
        port_forward_carries_and_follows_the_pod
        pods_of_the_keeper_are_found;
}

/// Tests that this machine can't make, and what it lacks.
fn lacking() -> Vec<(&'static str, &'static str)> {
    let mut lacking = Vec::new();
    if !std::fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("hugetlbfs")) {
        lacking.push(("mounts::huge_pages_are_a_volume_like_others", "no hugetlbfs in this kernel"));
    }
    if crictl::program().is_none() {
        let why = "no crictl on PATH (tests/integration/run builds it where Go 1.25 or later is)";
        lacking.extend(TESTS.iter().filter(|(name, _)| name.starts_with("crictl::")).map(|(name, _)| (*name, why)));
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
        lacking.push((
            "crictl::images_are_pulled_listed_inspected_and_removed",
            "no docker-registry (apt-get install docker-registry)",
        ));
    }
    if machine::find("docker-registry").is_none() || machine::find("openssl").is_none() {
        let why = "no docker-registry or no openssl (apt-get install docker-registry openssl)";
        lacking.extend(TESTS.iter().filter(|(name, _)| name.starts_with("registries::")).map(|(name, _)| (*name, why)));
    }
    if streaming::program().is_none() {
        let why = "no streaming-client on PATH (tests/integration/run builds it where Go 1.25 or later is)";
        let judged = |name: &str| name.starts_with("streaming::") && name != "streaming::an_escaped_path_as_authority";
        lacking.extend(TESTS.iter().filter(|(name, _)| judged(name)).map(|(name, _)| (*name, why)));
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
