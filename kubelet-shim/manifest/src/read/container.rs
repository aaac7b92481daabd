//! `containers` and `initContainers`.

use super::{
    probe,
    security::{self, PodSecurity},
    volume::bytes,
};
use crate::{
    pod::{
        Container, Environment, EnvironmentSource, FieldPath, Lifecycle, Metadata, Mount, Port, Protocol, PullPolicy,
        Resources, Volume,
    },
    quantity,
    tree::{Fields, Value},
    words::shortened,
};

/// Most variables of a container.
const VARIABLES_MAX: usize = 2_000;
/// Longest image reference that a registry takes, digest included.
const IMAGE_BYTES_MAX: usize = 512;

const LATER: &str = "Podwright doesn't do this yet";

/// Regular container or init container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Main,
}

/// What a container's fields refer to.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) volumes: &'a [(Volume, u64)],
    pub(super) security: &'a PodSecurity,
    pub(super) host_network: bool,
}

pub(super) fn container(value: &Value<'_>, at: &Place<'_>, kind: Kind) -> Option<Container> {
    let mut fields = value.fields()?;
    let name = fields.need("name").and_then(|value| value.label_name());
    let image = fields.need("image").and_then(|value| image(&value));
    let sidecar = sidecar(&mut fields, kind);
    let ports: Vec<Port> =
        fields.take("ports").iter().flat_map(|value| value.list()).filter_map(|item| port(&item, at)).collect();
    let resources = fields.take("resources").map(|value| resources(&value)).unwrap_or_default();
    let policy =
        [("Always", PullPolicy::Always), ("IfNotPresent", PullPolicy::IfNotPresent), ("Never", PullPolicy::Never)];
    let pull_policy = fields.take("imagePullPolicy").and_then(|value| value.word(&policy));
    let mut container = Container {
        name: name.clone().unwrap_or_default(),
        image: image.clone().unwrap_or_default(),
        pull_policy: pull_policy.unwrap_or_else(|| default_policy(image.as_deref().unwrap_or_default())),
        sidecar,
        command: fields.take("command").map(|value| value.texts()).unwrap_or_default(),
        args: fields.take("args").map(|value| value.texts()).unwrap_or_default(),
        working_dir: fields.take("workingDir").and_then(|value| value.absolute_path()),
        env: fields.take("env").map(|value| variables(&value, &resources)).unwrap_or_default(),
        resources,
        mounts: fields.take("volumeMounts").map(|value| mounts(&value, at)).unwrap_or_default(),
        startup: None,
        liveness: None,
        readiness: None,
        lifecycle: Lifecycle::default(),
        security: security::container(fields.take("securityContext"), &at.security.inherited),
        stdin: super::flag(&mut fields, "stdin"),
        stdin_once: super::flag(&mut fields, "stdinOnce"),
        tty: super::flag(&mut fields, "tty"),
        ports,
    };
    let mut refused = vec![
        ("envFrom", LATER),
        ("volumeDevices", LATER),
        ("resizePolicy", LATER),
        ("restartPolicyRules", LATER),
        ("terminationMessagePath", "the message file comes later; remove it"),
        ("terminationMessagePolicy", "the message file comes later; remove it"),
    ];
    if kind == Kind::Init && !sidecar {
        let reason = "an init container runs to its end, so nothing probes it; only with `restartPolicy: Always`";
        refused.extend(["startupProbe", "livenessProbe", "readinessProbe", "lifecycle"].map(|field| (field, reason)));
    } else {
        container.startup = probe::probe(fields.take("startupProbe"), &container.ports, probe::Kind::Startup);
        container.liveness = probe::probe(fields.take("livenessProbe"), &container.ports, probe::Kind::Liveness);
        container.readiness = probe::probe(fields.take("readinessProbe"), &container.ports, probe::Kind::Readiness);
        container.lifecycle = probe::lifecycle(fields.take("lifecycle"), &container.ports);
    }
    fields.finish(&refused);
    (name.is_some() && image.is_some()).then_some(container)
}

fn image(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let good = !text.is_empty() && text.len() <= IMAGE_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !good {
        value.wrong(format!("{:?} is not an image reference such as registry.example/app:1", shortened(text)));
    }
    good.then(|| text.to_owned())
}

// The API server's rule: no tag, or the tag `latest`, may mean something else tomorrow.
fn default_policy(image: &str) -> PullPolicy {
    if image.contains('@') {
        return PullPolicy::IfNotPresent;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => PullPolicy::Always,
        Some(_) => PullPolicy::IfNotPresent,
    }
}

fn sidecar(fields: &mut Fields<'_>, kind: Kind) -> bool {
    let Some(value) = fields.take("restartPolicy") else { return false };
    match (kind, value.text()) {
        (Kind::Init, Some("Always")) => true,
        (_, Some(_)) => {
            value.wrong(
                "only `Always` on an init container (a sidecar) is supported; the pod's policy is spec.restartPolicy",
            );
            false
        }
        (_, None) => false,
    }
}

fn number(value: &Value<'_>) -> Option<u16> {
    value.integer(1, 65_535).and_then(|number| u16::try_from(number).ok())
}

fn port(value: &Value<'_>, at: &Place<'_>) -> Option<Port> {
    let mut fields = value.fields()?;
    let container = fields.need("containerPort").and_then(|value| number(&value));
    // `hostPort: 0` is the API's way to say none.
    let written = fields.take("hostPort");
    let mut host =
        written.as_ref().and_then(|value| value.integer(0, 65_535)).and_then(|number| u16::try_from(number).ok());
    host = host.filter(|number| *number > 0);
    if at.host_network {
        if let Some(value) = written.filter(|_| host.is_some() && host != container) {
            value.wrong("with hostNetwork the hostPort must equal the containerPort");
        }
        host = host.or(container);
    }
    let host_ip = fields.take("hostIP").filter(|value| value.text().is_some_and(|text| !text.is_empty()));
    let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    let port = Port {
        name: fields.take("name").and_then(|value| value.port_name()),
        container: container.unwrap_or(1),
        host,
        host_ip: host_ip.and_then(|value| super::address(&value)),
        protocol: fields.take("protocol").and_then(|value| value.word(&protocols)).unwrap_or(Protocol::Tcp),
    };
    fields.finish(&[]);
    container.map(|_| port)
}

fn resources(value: &Value<'_>) -> Resources {
    let Some(mut fields) = value.fields() else { return Resources::default() };
    let (cpu_limit_milli, memory_limit_bytes) = amounts(fields.take("limits"));
    let (cpu_request, memory_request) = amounts(fields.take("requests"));
    fields.finish(&[("claims", "it needs a cluster; remove it")]);
    if cpu_request.zip(cpu_limit_milli).is_some_and(|(request, limit)| request > limit) {
        value.wrong("requests.cpu is larger than limits.cpu");
    }
    if memory_request.zip(memory_limit_bytes).is_some_and(|(request, limit)| request > limit) {
        value.wrong("requests.memory is larger than limits.memory");
    }
    Resources {
        cpu_request_milli: cpu_request.or(cpu_limit_milli),
        cpu_limit_milli,
        memory_request_bytes: memory_request.or(memory_limit_bytes),
        memory_limit_bytes,
    }
}

fn amounts(value: Option<Value<'_>>) -> (Option<u64>, Option<u64>) {
    let Some(mut fields) = value.and_then(|value| value.fields()) else { return (None, None) };
    let cpu = fields.take("cpu").and_then(|value| {
        let text = value.scalar()?;
        quantity::milli(&text)
            .map_err(|rule| value.wrong(format!("{:?} is not a quantity: {rule}", shortened(&text))))
            .ok()
    });
    let memory = fields.take("memory").and_then(|value| bytes(&value));
    fields.finish(&[("ephemeral-storage", "Podwright doesn't limit it yet")]);
    (cpu, memory)
}

fn variables(value: &Value<'_>, resources: &Resources) -> Vec<Environment> {
    let items = value.list();
    if items.len() > VARIABLES_MAX {
        value.wrong(format!("holds {} variables; a container has at most {VARIABLES_MAX}", items.len()));
        return Vec::new();
    }
    items.iter().filter_map(|item| variable(item, resources)).collect()
}

fn variable(value: &Value<'_>, resources: &Resources) -> Option<Environment> {
    let mut fields = value.fields()?;
    let name = fields.need("name").and_then(|value| {
        let text = value.text()?;
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=');
        if !good {
            value.wrong("must be printable ASCII without `=`");
        }
        good.then(|| text.to_owned())
    });
    let plain = fields.take("value").and_then(|value| value.text().map(str::to_owned));
    let from = fields.take("valueFrom");
    let both = plain.is_some() && from.is_some();
    let source = match from.and_then(|value| value.fields()) {
        Some(from) => value_from(from, resources),
        None => Some(EnvironmentSource::Value(plain.unwrap_or_default())),
    };
    fields.finish(&[]);
    if both {
        value.wrong("value and valueFrom exclude each other");
    }
    Some(Environment { name: name?, source: source? })
}

fn value_from(mut from: Fields<'_>, resources: &Resources) -> Option<EnvironmentSource> {
    let field = from.take("fieldRef");
    let resource = from.take("resourceFieldRef");
    let place = from.value.clone();
    from.finish(&[("configMapKeyRef", LATER), ("secretKeyRef", LATER), ("fileKeyRef", LATER)]);
    match (field, resource) {
        (Some(field), None) => {
            let mut fields = field.fields()?;
            fields.take("apiVersion");
            let path = fields.need("fieldPath").and_then(|value| field_path(&value));
            fields.finish(&[]);
            path.map(EnvironmentSource::Field)
        }
        (None, Some(resource)) => resource_field(&resource, resources),
        _ => {
            place.wrong("needs one of fieldRef and resourceFieldRef");
            None
        }
    }
}

fn field_path(value: &Value<'_>) -> Option<FieldPath> {
    let text = value.text()?;
    for (prefix, make) in [
        ("metadata.labels['", FieldPath::Label as fn(String) -> FieldPath),
        ("metadata.annotations['", FieldPath::Annotation),
    ] {
        if let Some(key) = text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("']")) {
            return Some(make(key.to_owned()));
        }
    }
    value.word(&[
        ("metadata.name", FieldPath::Name),
        ("metadata.namespace", FieldPath::Namespace),
        ("metadata.uid", FieldPath::Uid),
        ("spec.nodeName", FieldPath::NodeName),
        ("spec.serviceAccountName", FieldPath::ServiceAccount),
        ("status.podIP", FieldPath::PodIp),
        ("status.podIPs", FieldPath::PodIp),
        ("status.hostIP", FieldPath::HostIp),
        ("status.hostIPs", FieldPath::HostIp),
    ])
}

fn resource_field(value: &Value<'_>, resources: &Resources) -> Option<EnvironmentSource> {
    let mut fields = value.fields()?;
    let name = fields.need("resource");
    let divisor = fields.take("divisor").and_then(|value| Some((value.scalar()?, value)));
    fields.finish(&[("containerName", "the variable's own container is meant")]);
    let name = name?;
    let amounts = [
        ("limits.cpu", (resources.cpu_limit_milli, true)),
        ("requests.cpu", (resources.cpu_request_milli, true)),
        ("limits.memory", (resources.memory_limit_bytes, false)),
        ("requests.memory", (resources.memory_request_bytes, false)),
    ];
    let (amount, is_cpu) = name.word(&amounts)?;
    let Some(amount) = amount else {
        name.wrong("the container doesn't set this resource");
        return None;
    };
    let milli = u128::from(amount) * if is_cpu { 1 } else { 1_000 };
    let divisor_milli = match divisor {
        None => 1_000,
        Some((text, value)) => match quantity::milli(&text) {
            Ok(0) => 1_000,
            Ok(milli) => u128::from(milli),
            Err(rule) => {
                value.wrong(format!("{:?} is not a quantity: {rule}", shortened(&text)));
                return None;
            }
        },
    };
    Some(EnvironmentSource::Resource(milli.div_ceil(divisor_milli).to_string()))
}

fn mounts(value: &Value<'_>, at: &Place<'_>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for item in value.list() {
        let Some(mount) = mount(&item, at) else { continue };
        if mounts.iter().any(|other| other.path == mount.path) {
            item.wrong(format!("two volumes are mounted at {}", mount.path));
        }
        mounts.push(mount);
    }
    mounts
}

fn mount(value: &Value<'_>, at: &Place<'_>) -> Option<Mount> {
    let mut fields = value.fields()?;
    let name = fields.need("name").and_then(|value| Some((value.text()?.to_owned(), value)));
    let path = fields.need("mountPath").and_then(|value| value.absolute_path());
    let read_only = super::flag(&mut fields, "readOnly");
    if let Some(value) = fields.take("mountPropagation").filter(|value| value.text().is_some_and(|text| text != "None"))
    {
        value.wrong("only `None` is supported");
    }
    fields.finish(&[
        ("subPath", "sub-paths come later; mount the whole volume"),
        ("subPathExpr", "sub-paths come later; mount the whole volume"),
        ("recursiveReadOnly", "Podwright doesn't do this yet"),
    ]);
    let (name, place) = name?;
    if !at.volumes.iter().any(|(volume, _)| volume.name == name) {
        let known = at.volumes.iter().map(|(volume, _)| volume.name.as_str());
        let hint = crate::words::nearest(&name, known).map_or_else(
            || format!("pod `{}` has no volume of that name in spec.volumes", at.metadata.name),
            |near| format!("did you mean `{near}`?"),
        );
        place.wrong(format!("volume `{}` is not known; {hint}", shortened(&name)));
        return None;
    }
    Some(Mount { volume: name, path: path?, read_only })
}
