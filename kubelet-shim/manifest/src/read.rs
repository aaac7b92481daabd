//! From the tree to the pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    pod::{DnsConfig, DnsPolicy, HostAlias, Metadata, Origin, Pod, Port, RestartPolicy, Volume},
    tree::{Fields, Value},
};

mod container;
mod probe;
mod security;
mod volume;

use container::Place as ContainerPlace;

/// Longest time that a manifest may give, in seconds: ten years, so that sums of moments never wrap.
pub(super) const SECONDS_MAX: i64 = 10 * 365 * 24 * 3600;
/// Most containers in a pod; each costs processes, mounts and cgroups.
const CONTAINERS_MAX: usize = 100;
/// The kubelet writes at most so many name servers into resolv.conf; libc reads no more.
const NAME_SERVERS_MAX: usize = 3;

const ONE_HOST: &str = "there is no choice of node on a single host; remove it";
const NO_CLUSTER: &str = "it needs a cluster; remove it";
const LATER: &str = "Podwright doesn't do this yet";

const POD_REFUSED: &[(&str, &str)] = &[
    ("affinity", ONE_HOST),
    ("topologySpreadConstraints", ONE_HOST),
    ("nodeSelector", ONE_HOST),
    ("tolerations", ONE_HOST),
    ("schedulerName", ONE_HOST),
    ("schedulingGates", ONE_HOST),
    ("nodeName", ONE_HOST),
    ("priority", NO_CLUSTER),
    ("priorityClassName", NO_CLUSTER),
    ("preemptionPolicy", NO_CLUSTER),
    ("serviceAccount", NO_CLUSTER),
    ("serviceAccountName", NO_CLUSTER),
    ("resourceClaims", NO_CLUSTER),
    ("readinessGates", NO_CLUSTER),
    ("runtimeClassName", "there is one runtime; remove it"),
    ("ephemeralContainers", "they are added to running pods, not written in manifests"),
    ("imagePullSecrets", "put the credentials into the registry configuration"),
    ("hostUsers", LATER),
    ("subdomain", NO_CLUSTER),
    ("setHostnameAsFQDN", LATER),
    ("os", "the host runs Linux; remove it"),
    ("overhead", LATER),
    ("resources", "give them to each container"),
];

pub(crate) fn pod(mut root: Fields<'_>) -> Option<Pod> {
    let (place, root_file) = (root.value.place, root.value.file().to_owned());
    let metadata = root.need("metadata").and_then(|value| self::metadata(&value));
    // What the API server adds when a pod is printed; it says nothing about what should run.
    root.take("status");
    let spec = root.need("spec").and_then(|value| value.fields());
    root.finish(&[]);
    let (metadata, mut spec) = (metadata?, spec?);
    let volumes = volume::volumes(spec.take("volumes"));
    let volume_lines = volumes.iter().map(|(volume, line)| (volume.name.clone(), *line)).collect();
    let pod_security = security::pod(spec.take("securityContext"));
    let host_network = flag(&mut spec, "hostNetwork");
    let at = ContainerPlace { metadata: &metadata, volumes: &volumes, security: &pod_security, host_network };
    let init_containers = containers(spec.take("initContainers"), &at, container::Kind::Init);
    let main = spec.need("containers");
    let containers = containers(main.clone(), &at, container::Kind::Main);
    if let Some(value) = main.filter(|value| matches!(value.node, crate::tree::Node::List(items) if items.is_empty())) {
        value.wrong("a pod has at least one container");
    }
    unique_names(&spec, &init_containers, &containers);
    unique_host_ports(&spec, init_containers.iter().chain(&containers).flat_map(|container| &container.ports));
    let restart_policy = spec.take("restartPolicy").and_then(|value| restart_policy(&value));
    let host_pid = flag(&mut spec, "hostPID");
    let share_process_namespace = flag(&mut spec, "shareProcessNamespace");
    if host_pid && share_process_namespace {
        spec.value.wrong("hostPID and shareProcessNamespace exclude each other");
    }
    let hostname = spec.take("hostname").and_then(|value| value.label_name());
    let mut pod = Pod {
        origin: Origin { file: root_file, line: place.line, volume_lines },
        revision: String::new(),
        hostname: hostname.unwrap_or_else(|| default_hostname(&metadata.name)),
        init_containers,
        containers,
        volumes: volumes.into_iter().map(|(volume, _)| volume).collect::<Vec<Volume>>(),
        restart_policy: restart_policy.unwrap_or(RestartPolicy::Always),
        grace: seconds(&mut spec, "terminationGracePeriodSeconds", 0).unwrap_or(Duration::from_secs(30)),
        active_deadline: seconds(&mut spec, "activeDeadlineSeconds", 1),
        host_network,
        host_pid,
        host_ipc: flag(&mut spec, "hostIPC"),
        share_process_namespace,
        dns_policy: dns_policy(&mut spec),
        dns: spec.take("dnsConfig").and_then(|value| dns_config(&value)).unwrap_or_default(),
        host_aliases: spec.take("hostAliases").map(|value| host_aliases(&value)).unwrap_or_default(),
        supplemental_groups: pod_security.supplemental_groups.clone(),
        sysctls: pod_security.sysctls.clone(),
        metadata,
    };
    if flag_or(&mut spec, "automountServiceAccountToken", false) {
        spec.value.wrong("automountServiceAccountToken: there is no API server on a single host; remove it");
    }
    // No service exists, so whether its variables are set makes no difference.
    flag_or(&mut spec, "enableServiceLinks", true);
    spec.finish(POD_REFUSED);
    pod.revision = revision(&pod);
    Some(pod)
}

/// Equal for equal pods: the place in the file doesn't count.
fn revision(pod: &Pod) -> String {
    let mut blank = pod.clone();
    blank.origin = Origin { file: String::new(), line: 0, volume_lines: BTreeMap::new() };
    let bytes = serde_json::to_vec(&blank).expect("maps of a pod have text keys");
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn default_hostname(name: &str) -> String {
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

pub(crate) fn metadata(value: &Value<'_>) -> Option<Metadata> {
    let mut fields = value.fields()?;
    let name = fields.need("name").and_then(|value| value.subdomain_name());
    let namespace = fields.take("namespace").map_or_else(|| Some("default".to_owned()), |value| value.label_name());
    let uid = fields.take("uid").map(|value| (value.text(), value));
    let labels = fields.take("labels").map(|value| value.labels()).unwrap_or_default();
    let annotations = fields.take("annotations").map(|value| value.annotations()).unwrap_or_default();
    // Written by an API server; they don't say what should run.
    for name in ["creationTimestamp", "resourceVersion", "generation", "managedFields", "selfLink"] {
        fields.take(name);
    }
    fields.finish(&[
        ("generateName", "a pod here has a name of its own; write `name`"),
        ("ownerReferences", NO_CLUSTER),
        ("finalizers", NO_CLUSTER),
    ]);
    let (name, namespace) = (name?, namespace?);
    let uid = match uid {
        Some((Some(uid), value)) if !is_uuid(uid) => {
            value.wrong("must be a UUID such as 0d6ce2f8-…, or be left out");
            return None;
        }
        Some((uid, _)) => uid?.to_owned(),
        None => derived_uid(&namespace, &name),
    };
    Some(Metadata { name, namespace, uid, labels, annotations })
}

/// The uid becomes part of paths and of cgroup names.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

// From the name and not from the file: who renames a manifest or runs it from another directory means the same pod.
fn derived_uid(namespace: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("podwright pod {namespace}/{name}"));
    let text = hexadecimal(&digest[..16]);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..32])
}

fn containers(value: Option<Value<'_>>, at: &ContainerPlace<'_>, kind: container::Kind) -> Vec<crate::pod::Container> {
    let Some(value) = value else { return Vec::new() };
    let items = value.list();
    if items.len() > CONTAINERS_MAX {
        value.wrong(format!("holds {} containers; a pod has at most {CONTAINERS_MAX}", items.len()));
        return Vec::new();
    }
    items.iter().filter_map(|item| container::container(item, at, kind)).collect()
}

fn unique_names(spec: &Fields<'_>, init: &[crate::pod::Container], main: &[crate::pod::Container]) {
    let mut names = BTreeSet::new();
    for container in init.iter().chain(main) {
        if !names.insert(&container.name) {
            spec.value.wrong(format!("two containers have the name `{}`", container.name));
        }
    }
}

fn unique_host_ports<'a>(spec: &Fields<'_>, ports: impl Iterator<Item = &'a Port>) {
    let mut seen = BTreeSet::new();
    for port in ports {
        let Some(host) = port.host else { continue };
        if !seen.insert((host, port.host_ip, port.protocol)) {
            spec.value.wrong(format!("hostPort {host} stands twice"));
        }
    }
}

fn restart_policy(value: &Value<'_>) -> Option<RestartPolicy> {
    value.word(&[
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ])
}

fn dns_policy(spec: &mut Fields<'_>) -> DnsPolicy {
    let words = [
        ("ClusterFirst", DnsPolicy::Host),
        ("ClusterFirstWithHostNet", DnsPolicy::Host),
        ("Default", DnsPolicy::Host),
        ("None", DnsPolicy::None),
    ];
    spec.take("dnsPolicy").and_then(|value| value.word(&words)).unwrap_or(DnsPolicy::Host)
}

fn address(value: &Value<'_>) -> Option<IpAddr> {
    let text = value.text()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    value.wrong(format!("{:?} is not an IP address", crate::words::shortened(text)));
    None
}

fn dns_config(value: &Value<'_>) -> Option<DnsConfig> {
    let mut fields = value.fields()?;
    let list = fields.take("nameservers");
    let servers: Vec<IpAddr> = list.iter().flat_map(|value| value.list()).filter_map(|item| address(&item)).collect();
    if let Some(list) = list.filter(|_| servers.len() > NAME_SERVERS_MAX) {
        list.wrong(format!("holds {} name servers; resolv.conf has at most {NAME_SERVERS_MAX}", servers.len()));
    }
    let searches = fields.take("searches").map(|value| value.list()).unwrap_or_default();
    let searches = searches.iter().filter_map(|item| item.subdomain_name()).collect();
    let mut options = Vec::new();
    for item in fields.take("options").iter().flat_map(|value| value.list()) {
        let Some(mut option) = item.fields() else { continue };
        let name = option.need("name").and_then(|value| single_word(&value));
        let value = option.take("value").and_then(|value| single_word(&value));
        option.finish(&[]);
        options.extend(name.map(|name| value.map_or_else(|| name.clone(), |value| format!("{name}:{value}"))));
    }
    fields.finish(&[]);
    Some(DnsConfig { servers, searches, options })
}

/// A word that becomes part of a line of resolv.conf or hosts, so it holds no white space.
fn single_word(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    value.wrong("must be one word of printable ASCII");
    None
}

fn host_aliases(value: &Value<'_>) -> Vec<HostAlias> {
    let mut aliases = Vec::new();
    for item in value.list() {
        let Some(mut fields) = item.fields() else { continue };
        let ip = fields.need("ip").and_then(|value| address(&value));
        let names = fields.take("hostnames").map(|value| value.list()).unwrap_or_default();
        let hostnames = names.iter().filter_map(|name| name.subdomain_name()).collect();
        fields.finish(&[]);
        aliases.extend(ip.map(|ip| HostAlias { ip, hostnames }));
    }
    aliases
}

pub(super) fn flag(fields: &mut Fields<'_>, name: &'static str) -> bool {
    flag_or(fields, name, false)
}

fn flag_or(fields: &mut Fields<'_>, name: &'static str, absent: bool) -> bool {
    fields.take(name).and_then(|value| value.boolean()).unwrap_or(absent)
}

pub(super) fn seconds(fields: &mut Fields<'_>, name: &'static str, min: i64) -> Option<Duration> {
    let seconds = fields.take(name)?.integer(min, SECONDS_MAX)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
