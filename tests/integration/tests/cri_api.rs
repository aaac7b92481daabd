//! Our CRI is upstream's: descriptors and encoded messages are compared with those of the Go package k8s.io/cri-api, which
//! the program below `cri-api/` prints.

#![expect(clippy::print_stdout, reason = "a test says why it is skipped")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use runtime_cri_api::v1;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Field {
    name: String,
    number: i32,
    kind: String,
    label: String,
    r#type: String,
    oneof: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Method {
    name: String,
    input: String,
    output: String,
    client_streaming: bool,
    server_streaming: bool,
}

/// What the Go program says.
#[derive(Debug, Deserialize)]
struct Upstream {
    messages: BTreeMap<String, Vec<Field>>,
    enums: BTreeMap<String, BTreeMap<String, i32>>,
    methods: Vec<Method>,
    samples: BTreeMap<String, String>,
}

/// The methods of both services: a definition with fewer isn't the one that we mean.
const METHODS: usize = 43;

/// The Go program, where it is built.
fn program() -> Option<PathBuf> {
    std::env::var_os("PODWRIGHT_TEST_CRI_API").map(PathBuf::from).filter(|file| file.exists())
}

fn upstream(program: &Path) -> Upstream {
    let output = Command::new(program).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the program prints JSON")
}

fn ours() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(runtime_cri_api::FILE_DESCRIPTOR_SET).expect("the build wrote it");
    set.file.into_iter().find(|file| file.package() == "runtime.v1").expect("the package is in it")
}

/// As Go's reflection calls it.
fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase()
}

fn field(field: &FieldDescriptorProto, of: &DescriptorProto) -> Field {
    let entry = of.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", of.name(), nested.name()))
    });
    let repeated = field.label() == Label::Repeated;
    let packed = repeated && !matches!(field.r#type(), Type::Message | Type::String | Type::Bytes);
    let label = match (repeated, packed) {
        (true, true) => "packed",
        (true, false) => "repeated",
        (false, _) => "optional",
    };
    let (kind, r#type) = match entry {
        Some(entry) => ("map".to_owned(), entry.field.iter().map(type_name).collect::<Vec<_>>().join(",")),
        None => (kind(field), type_name(field)),
    };
    let oneof = field.oneof_index.and_then(|index| of.oneof_decl.get(usize::try_from(index).ok()?));
    Field {
        name: field.name().to_owned(),
        number: field.number(),
        kind,
        label: label.to_owned(),
        r#type,
        oneof: oneof.map(|oneof| oneof.name().to_owned()).unwrap_or_default(),
    }
}

fn values(enumeration: &EnumDescriptorProto) -> BTreeMap<String, i32> {
    enumeration.value.iter().map(|value| (value.name().to_owned(), value.number())).collect()
}

fn every_field_and_method_is_upstreams(program: &Path) {
    let (upstream, ours) = (upstream(program), ours());
    let named: BTreeSet<String> =
        ours.message_type.iter().map(|message| format!("runtime.v1.{}", message.name())).collect();
    assert_eq!(named, upstream.messages.keys().cloned().collect(), "the messages");
    let mut enums: BTreeMap<String, _> =
        ours.enum_type.iter().map(|found| (format!("runtime.v1.{}", found.name()), values(found))).collect();
    for message in &ours.message_type {
        let name = format!("runtime.v1.{}", message.name());
        let mut fields: Vec<Field> = message.field.iter().map(|found| field(found, message)).collect();
        let mut theirs = upstream.messages[&name].clone();
        fields.sort_by_key(|field| field.number);
        theirs.sort_by_key(|field| field.number);
        assert_eq!(fields, theirs, "{name}");
        enums.extend(message.enum_type.iter().map(|found| (format!("{name}.{}", found.name()), values(found))));
    }
    assert_eq!(enums, upstream.enums);
    let methods = ours.service.iter().flat_map(|service| {
        service.method.iter().map(|method| Method {
            name: format!("/runtime.v1.{}/{}", service.name(), method.name()),
            input: method.input_type().trim_start_matches('.').to_owned(),
            output: method.output_type().trim_start_matches('.').to_owned(),
            client_streaming: method.client_streaming(),
            server_streaming: method.server_streaming(),
        })
    });
    let methods: Vec<Method> = methods.collect();
    assert_eq!(methods, upstream.methods);
    assert_eq!(methods.len(), METHODS);
}

/// Decodes what Go has encoded and encodes it again. A field that we don't know would be lost on the way.
fn again<T: Message + Default>(name: &str, samples: &mut BTreeMap<String, String>) {
    // The generator writes `CDIDevice` as `CdiDevice`.
    let same = |theirs: &&String| theirs.strip_prefix("runtime.v1.").is_some_and(|own| own.eq_ignore_ascii_case(name));
    let theirs = samples.keys().find(same).unwrap_or_else(|| panic!("upstream has no {name}")).clone();
    let sample = samples.remove(&theirs).expect("its name was just found");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
    let sample: Vec<u8> = sample.as_bytes().chunks(2).map(byte).collect();
    let decoded = T::decode(sample.as_slice()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(decoded.encode_to_vec() == sample, "{name} comes back as something else");
    // And a later version's field doesn't keep us from reading the rest.
    let later = [sample.as_slice(), &[0xfa, 0x3f, 1, b'x']].concat();
    assert!(
        T::decode(later.as_slice()).is_ok_and(|read| read.encode_to_vec() == sample),
        "{name} with a field to come"
    );
}

macro_rules! all_again {
    ($samples:expr, $($message:ident),*) => { $(again::<v1::$message>(stringify!($message), $samples);)* };
}

fn what_go_encodes_we_read_and_write_alike(program: &Path) {
    let mut samples = upstream(program).samples;
    #[rustfmt::skip]
    all_again!(&mut samples,
    AttachRequest, AttachResponse, AuthConfig, Capability, CdiDevice, CheckpointContainerRequest,
    CheckpointContainerResponse, CheckpointPodRequest, CheckpointPodResponse, Container, ContainerAttributes,
    ContainerConfig, ContainerEventResponse, ContainerFilter, ContainerMetadata, ContainerMetrics,
    ContainerResources, ContainerStateValue, ContainerStats, ContainerStatsFilter, ContainerStatsRequest,
    ContainerStatsResponse, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, ContainerUser,
    CpuUsage, CreateContainerRequest, CreateContainerResponse, Device, DnsConfig, ExecRequest, ExecResponse,
    ExecSyncRequest, ExecSyncResponse, FilesystemIdentifier, FilesystemUsage, GetEventsRequest, HugepageLimit,
    IdMapping, Image, ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, Int64Value, IoUsage, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxContainerUser, LinuxPodSandboxConfig, LinuxPodSandboxStats,
    LinuxPodSandboxStatus, LinuxRuntimeConfiguration, LinuxSandboxSecurityContext, ListContainerStatsRequest,
    ListContainerStatsResponse, ListContainersRequest, ListContainersResponse, ListImagesRequest,
    ListImagesResponse, ListMetricDescriptorsRequest, ListMetricDescriptorsResponse,
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, MemoryUsage, Metric,
    MetricDescriptor, Mount, Namespace, NamespaceOption, NetworkConfig, NetworkInterfaceUsage, NetworkUsage,
    PodIp, PodSandbox, PodSandboxAttributes, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata,
    PodSandboxMetrics, PodSandboxNetworkStatus, PodSandboxStateValue, PodSandboxStats, PodSandboxStatsFilter,
    PodSandboxStatsRequest, PodSandboxStatsResponse, PodSandboxStatus, PodSandboxStatusRequest,
    PodSandboxStatusResponse, PortForwardRequest, PortForwardResponse, PortMapping, ProcessUsage, PsiData,
    PsiStats, PullImageRequest, PullImageResponse, RemoveContainerRequest, RemoveContainerResponse,
    RemoveImageRequest, RemoveImageResponse, RemovePodSandboxRequest, RemovePodSandboxResponse,
    ReopenContainerLogRequest, ReopenContainerLogResponse, RestorePodRequest, RestorePodResponse,
    RestoredContainer, RunPodSandboxRequest, RunPodSandboxResponse, RuntimeCondition, RuntimeConfig,
    RuntimeConfigRequest, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures,
    RuntimeStatus, SeLinuxOption, SecurityProfile, StartContainerRequest, StartContainerResponse,
    StatusRequest, StatusResponse, StopContainerRequest, StopContainerResponse, StopPodSandboxRequest,
    StopPodSandboxResponse, StreamContainerStatsRequest, StreamContainerStatsResponse,
    StreamContainersRequest, StreamContainersResponse, StreamImagesRequest, StreamImagesResponse,
    StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse, StreamPodSandboxStatsRequest,
    StreamPodSandboxStatsResponse, StreamPodSandboxesRequest, StreamPodSandboxesResponse, SwapUsage,
    UInt64Value, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse, UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse, UserNamespace, VersionRequest, VersionResponse, WindowsContainerConfig,
    WindowsContainerResources, WindowsContainerSecurityContext, WindowsContainerStats,
    WindowsCpuGroupAffinity, WindowsCpuUsage, WindowsFilesystemUsage, WindowsMemoryUsage,
    WindowsNamespaceOption, WindowsNetworkInterfaceUsage, WindowsNetworkUsage, WindowsPodSandboxConfig,
    WindowsPodSandboxStats, WindowsProcessUsage, WindowsSandboxSecurityContext);
    assert!(samples.is_empty(), "not compared: {:?}", samples.keys());
}

type Test = fn(&Path);

const TESTS: [(&str, Test); 2] = [
    ("every_field_and_method_is_upstreams", every_field_and_method_is_upstreams),
    ("what_go_encodes_we_read_and_write_alike", what_go_encodes_we_read_and_write_alike),
];

/// With a harness that can say that a test was not made: where there is no Go, nothing was compared.
fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let program = program();
    if program.is_none() && !arguments.list {
        println!("skipped: no PODWRIGHT_TEST_CRI_API (tests/integration/run builds it where Go 1.26 is)");
    }
    let trial = |(name, test): (&str, Test)| {
        let given = program.clone();
        let trial = Trial::test(name, move || {
            test(&given.ok_or("PODWRIGHT_TEST_CRI_API names no program")?);
            Ok(())
        });
        trial.with_ignored_flag(program.is_none())
    };
    libtest_mimic::run(&arguments, TESTS.map(trial).into()).exit_code()
}
