//! A container that may trace whatever it sees, and watches every process from its birth on.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;
use runtime_wire::{ContainerSpec, ExecSpec, PidMode, Request};

use crate::harness::{Client, Pod, may_run, until};

/// Stands in the environment of another container, and so in the supervisor's memory.
const SECRET: &str = "the-secret-of-another-container-5f2a91";

/// Fewest and most execs, until the spy has seen some before their program.
const EXECS: (usize, usize) = (200, 3000);

/// Fewest and most containers.
const CONTAINERS: (usize, usize) = (30, 200);

/// How many looks into the memory of processes that were not yet at their program are enough.
const LOOKS_WANTED: usize = 5;

/// The least descriptors that a process needs on its way to its program: three streams, and the socket on which it says
/// that there is no such program.
const DESCRIPTORS_MAX: usize = 4;

/// Not a test but the program inside the container: this very file.
#[test]
#[ignore = "is the program inside the container of the other tests here"]
fn program() {
    let own = capabilities("self").expect("its own");
    let mut next = last_pid() + 1;
    loop {
        let path = format!("/proc/{next}");
        let Ok(text) = fs::read(format!("{path}/status")) else {
            // A number that was given to a thread, or that died between two looks.
            if last_pid() > next {
                next += 1;
            }
            continue;
        };
        drop(text);
        look(&path, next, own);
        next += 1;
    }
}

/// `ns_last_pid` needs rights; the fourth word behind the load doesn't: the last pid of this namespace.
fn last_pid() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").expect("reads");
    text.trim().rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a pid")
}

#[expect(clippy::print_stdout, reason = "the container's output is how the program tells what it found")]
fn look(path: &str, pid: u32, own: u64) {
    let program = |path: &str| fs::read_link(format!("{path}/exe")).map(|exe| exe.display().to_string());
    let before = program(path);
    let rights = capabilities(path.trim_start_matches("/proc/"));
    let descriptors: Vec<String> = fs::read_dir(format!("{path}/fd"))
        .map(|entries| entries.flatten())
        .into_iter()
        .flatten()
        .map(|entry| fs::read_link(entry.path()).map(|to| to.display().to_string()).unwrap_or_default())
        .collect();
    let memory = memory(path);
    let (Ok(before), Ok(after)) = (before, program(path)) else { return };
    if before != after || before.starts_with("/bin/") {
        return;
    }
    // Seen from begin to end of the look before its program was executed.
    println!("seen {pid} {before}: {} descriptors, {} bytes", descriptors.len(), memory.len());
    if rights.is_some_and(|rights| rights & !own != 0) {
        println!("leak {pid}: capabilities {rights:x?}, its own are {own:x}");
    }
    if descriptors.len() > DESCRIPTORS_MAX {
        println!("leak {pid}: descriptors {descriptors:?}");
    }
    if memory.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
        println!("leak {pid}: memory holds the other container's secret");
    }
}

/// The union of the effective and permitted sets.
fn capabilities(process: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let set = |name: &str| {
        let hex = text.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(hex.trim(), 16).ok()
    };
    Some(set("CapEff:")? | set("CapPrm:")?)
}

/// Everything that the process may write, its environment with it.
fn memory(path: &str) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut all = fs::read(format!("{path}/environ")).unwrap_or_default();
    let (Ok(maps), Ok(memory)) = (fs::read_to_string(format!("{path}/maps")), fs::File::open(format!("{path}/mem")))
    else {
        return all;
    };
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        let Some((start, end)) = range.map(|(start, end)| (number(start), number(end))) else { continue };
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0).min(16 << 20)];
        let count = memory.read_at(&mut bytes, start).unwrap_or(0);
        all.extend_from_slice(&bytes[..count]);
    }
    all
}

fn spy(pod: &Pod, id: &str) -> ContainerSpec {
    fs::copy("/proc/self/exe", pod.directory.join("layer/spy")).expect("copies this program");
    let mut spec =
        pod.program(id, &["/spy", "--exact", "spy::program", "--ignored", "--nocapture", "--test-threads=1"]);
    give_right_to_trace(spec.spec.process_mut().as_mut().expect("a process"));
    spec
}

fn give_right_to_trace(process: &mut oci_spec::runtime::Process) {
    let capabilities = serde_json::json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_KILL"]);
    let sets = serde_json::json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                                   "inheritable": [], "ambient": [] });
    process.set_capabilities(Some(serde_json::from_value(sets).expect("capabilities")));
}

fn keeper_of_the_secret(pod: &Pod) -> ContainerSpec {
    let mut spec = pod.container("other", "sleep 1000");
    let process = spec.spec.process_mut().as_mut().expect("a process");
    process.set_env(Some(vec!["PATH=/bin".into(), format!("SECRET={SECRET}")]));
    spec
}

/// What the spy said: how often it looked in time, and what it should not have found.
fn findings(pod: &Pod) -> (usize, Vec<String>) {
    let log = if Path::new(&pod.log_path("spy")).exists() { pod.log("spy") } else { Vec::new() };
    let seen = log.iter().filter(|line| line.contains(" F seen ")).count();
    (seen, log.into_iter().filter(|line| line.contains(" F leak ")).collect())
}

/// Begins a spy in a pod whose supervisor knows a secret, and makes processes that it may see until it has looked into some
/// of them in time.
fn under_eyes(pid: PidMode, (fewest, most): (usize, usize), mut one_more: impl FnMut(&Pod, &mut Client, usize)) {
    if !may_run() {
        return;
    }
    let (pod, mut client) = Pod::with_sandbox(pid);
    client.run(keeper_of_the_secret(&pod));
    client.run(spy(&pod, "spy"));
    until("the spy has begun", || !pod.log("spy").is_empty());
    for number in 0..most {
        if number >= fewest && findings(&pod).0 >= LOOKS_WANTED {
            break;
        }
        one_more(&pod, &mut client, number);
    }
    let (seen, leaks) = findings(&pod);
    assert_eq!(leaks, Vec::<String>::new(), "{seen} looks");
    assert!(seen > 0, "the spy never came in time, so this shows nothing");
    assert!(client.call(Request::Signal { container: "spy".into(), signal: 9, every_process: true }).is_ok());
    client.container_exit("spy");
    pod.end(client);
}

fn exec_under_eyes(no_new_privileges: bool) {
    under_eyes(PidMode::Container, EXECS, |pod, client, number| {
        let mut spec: ExecSpec = pod.exec(&format!("x{number}"), "spy", &["/bin/true"]);
        spec.process.set_no_new_privileges(Some(no_new_privileges));
        give_right_to_trace(&mut spec.process);
        assert_eq!(client.exec(spec).0.code, 0);
    });
}

fn container_under_eyes(pid: PidMode, change: impl Fn(&mut ContainerSpec)) {
    under_eyes(pid, CONTAINERS, |pod, client, number| {
        let id = format!("c{number}");
        let mut spec = pod.program(&id, &["/bin/true"]);
        give_right_to_trace(spec.spec.process_mut().as_mut().expect("a process"));
        change(&mut spec);
        client.run(spec);
        assert_eq!(client.container_exit(&id).code, 0);
    });
}

/// In the spy's process-id namespace in place of one of its own.
fn at_the_spy(spec: &mut ContainerSpec) {
    spec.pid_target = Some("spy".to_owned());
    let linux = spec.spec.linux_mut().as_mut().expect("there");
    let mut namespaces = linux.namespaces().clone().expect("there");
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Pid);
    linux.set_namespaces(Some(namespaces));
}

#[test]
fn an_exec_shows_nothing_that_is_not_the_containers() {
    exec_under_eyes(true);
}

#[test]
fn nor_where_its_filter_needs_a_right_to_be_loaded() {
    exec_under_eyes(false);
}

#[test]
fn nor_does_a_containers_first_process_among_others() {
    container_under_eyes(PidMode::Pod, |_| ());
}

#[test]
fn nor_does_one_among_those_of_its_target() {
    container_under_eyes(PidMode::Container, at_the_spy);
}

#[test]
fn nor_does_an_exec_into_one_among_those_of_its_target() {
    under_eyes(PidMode::Container, EXECS, |pod, client, number| {
        if number == 0 {
            let mut spec = pod.program("debugger", &["/bin/sleep", "1000"]);
            at_the_spy(&mut spec);
            client.run(spec);
        }
        let mut spec = pod.exec(&format!("x{number}"), "debugger", &["/bin/true"]);
        give_right_to_trace(&mut spec.process);
        assert_eq!(client.exec(spec).0.code, 0);
    });
}
