//! The network of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cni_plugins::{Attachment, BridgeError, BridgeNetwork, Pod, Ports, Repairs, Worker};
use cni_spec::{ContainerName, InterfaceName, Protocol, RuntimeConfig};
use serde_json::{Map, json};
use tokio::sync::oneshot;

use crate::cache::{self, NamespaceId, Record};
use crate::plan::{self, Plan, Runner};
use crate::program::{self, Call, Verb};
use crate::request::{Attach, Attached, NetworkConfig, NetworkError, Readiness, ReconcileReport};
use crate::turns::{Turn, Turns};
use crate::workers::{Fate, Workers};

/// The link's name inside a pod, as every runtime has it.
const INTERFACE: &str = "eth0";
/// How long after DEL a link may still be there because its namespace lives on; then it is deleted.
const LINK_GRACE: Duration = Duration::from_secs(2);
/// How long a pod is safe from [`Network::reconcile`] after it was attached: the list of the living may be older than it.
const YOUNG: Duration = Duration::from_secs(60);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The network of a node; clones are the same one.
#[derive(Debug, Clone)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    boot: String,
    results: PathBuf,
    /// None while the configuration directory has no configuration.
    plan: Mutex<Option<Arc<Plan>>>,
    records: Mutex<BTreeMap<String, Entry>>,
    turns: Arc<Turns>,
    /// Keeps the lines of `turns` and the queue of `workers` in the same order.
    order: Mutex<()>,
    workers: Workers,
    trouble: Mutex<Option<String>>,
}

#[derive(Debug, Clone)]
struct Entry {
    record: Arc<Record>,
    /// When this process attached it; none: an earlier one did.
    since: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with all its causes, in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Network {
    /// Reads the configuration and the cache, and refuses a pod network that overlaps a route of the host, by name of the
    /// route and its link. Serves the network namespace of the calling thread; nothing is made there before a pod comes.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::File { step: "read", path: PathBuf::from(BOOT_ID), source };
        let boot = fs::read_to_string(BOOT_ID).map_err(failed)?.trim().to_owned();
        let results = config.state_dir.join("results");
        let records = cache::read_all(&results, &boot)?;
        let plan = match plan::load(&config, &boot) {
            Ok(plan) => Some(Arc::new(plan)),
            // It may be put there later, by the network's own pod.
            Err(NetworkError::NoConfiguration { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(bridge) = plan.as_ref().and_then(|plan| plan.bridge.as_ref()) {
            adopt(bridge, &records);
        }
        let entries = records.into_iter().map(|(id, record)| (id, Entry { record: Arc::new(record), since: None }));
        let network = Self(Arc::new(Inner {
            records: Mutex::new(entries.collect()),
            plan: Mutex::new(plan),
            turns: Arc::default(),
            order: Mutex::default(),
            workers: Workers::new(),
            trouble: Mutex::default(),
            config,
            boot,
            results,
        }));
        if network.0.config.conf_dir.is_none() {
            refuse_overlap(&network.0.config).await?;
        }
        Ok(network)
    }

    /// Runs work on one of the threads, after what was asked for the same sandbox before. It runs to its end also when the
    /// caller goes away.
    async fn submit<T: Send + 'static>(
        &self,
        sandbox: Option<&str>,
        work: impl FnOnce(&Inner, &mut Worker) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (sender, receiver) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        {
            let _order = lock(&self.0.order);
            let turn = sandbox.map(|sandbox| Turn::take(&self.0.turns, sandbox));
            self.0.workers.run(move |worker| {
                let answer = worker.map_err(NetworkError::Setup).and_then(|worker| {
                    if let Some(turn) = &turn {
                        turn.wait();
                    }
                    work(&inner, worker)
                });
                let fate = match &answer {
                    Err(NetworkError::Bundled { source, .. } | NetworkError::Setup(source)) => Fate::of(source),
                    _ => Fate::GoOn,
                };
                drop(turn);
                // A caller that has gone away asks again, and finds the record.
                drop(sender.send(answer));
                fate
            })?;
        }
        receiver.await.unwrap_or(Err(NetworkError::Closed))
    }

    /// Attaches a pod. A sandbox that is attached to this very namespace already gets the same answer.
    pub async fn attach(&self, request: Attach) -> Result<Attached, NetworkError> {
        ContainerName::parse(request.sandbox.as_str()).map_err(NetworkError::Name)?;
        let sandbox = request.sandbox.clone();
        let has_udp = request.ports.iter().any(|port| port.protocol == Protocol::Udp && port.host_port != 0);
        let attached = self.submit(Some(&sandbox), move |inner, worker| inner.attach(worker, request)).await?;
        let record = lock(&self.0.records).get(&sandbox).map(|entry| Arc::clone(&entry.record));
        if has_udp && let Some(attachment) = record.and_then(|record| record.attachment.clone()) {
            self.forget_flows(attachment, Ports::Mapped);
        }
        Ok(attached)
    }

    /// Detaches a pod, from the cache. One that isn't attached is no error.
    pub async fn detach(&self, sandbox: &str) -> Result<(), NetworkError> {
        let id = ContainerName::parse(sandbox).map_err(NetworkError::Name)?.to_string();
        let weak = Arc::downgrade(&self.0);
        let detached = self.submit(Some(sandbox), move |inner, worker| inner.detach(worker, &id)).await?;
        let Some(attachment) = detached else { return Ok(()) };
        let links = vec![attachment.host_link.clone()];
        if !attachment.ports.is_empty() {
            self.forget_flows(attachment, Ports::Freed);
        }
        self.0.workers.run_later(LINK_GRACE, move |worker| {
            let Some(inner) = weak.upgrade() else { return Fate::GoOn };
            let (Some(bridge), Ok(worker)) = (inner.bridge(), worker) else { return Fate::GoOn };
            for error in bridge.delete_links(worker, &links) {
                tracing::warn!(error = %sentence(&error), "a link of a pod that is gone can't be deleted");
            }
            Fate::GoOn
        });
        Ok(())
    }

    /// Has stale flows by a pod's host ports forgotten, behind the answer to the request.
    fn forget_flows(&self, attachment: Attachment, now: Ports) {
        let weak = Arc::downgrade(&self.0);
        self.0.workers.run_later(Duration::ZERO, move |worker| {
            let Some(inner) = weak.upgrade() else { return Fate::GoOn };
            let (Some(bridge), Ok(worker)) = (inner.bridge(), worker) else { return Fate::GoOn };
            if let Err(error) = bridge.forget_flows(worker, &attachment, now) {
                tracing::warn!(error = %sentence(&error), pod = %attachment.pod, "stale flows by host ports remain");
            }
            Fate::GoOn
        });
    }

    /// What an attached pod was answered.
    pub async fn status(&self, sandbox: &str) -> Option<Attached> {
        lock(&self.0.records).get(sandbox)?.record.attached.clone()
    }

    /// Frees what belongs to sandboxes that are not in `live`, and puts back what others took away. Pods that were
    /// attached in the last minute are left alone, since `live` may be older than they are.
    pub async fn reconcile(&self, live: &BTreeSet<String>) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        for sandbox in self.0.dead(live) {
            match self.detach(&sandbox).await {
                Ok(()) => report.detached.push(sandbox),
                Err(error) => report.failures.push(sentence(&error)),
            }
        }
        match self.submit(None, |inner, worker| Ok(inner.repair(worker))).await {
            Ok(repairs) => {
                *lock(&self.0.trouble) = repairs.failures.first().map(|error| sentence(error));
                report.links = repairs.links;
                report.failures.extend(repairs.failures.iter().map(|error| sentence(error)));
                report.warnings = repairs.warnings;
            }
            Err(error) => report.failures.push(sentence(&error)),
        }
        report
    }

    /// Whether pods can be attached.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let not_ready = |message| Readiness::NotReady { reason: "NetworkPluginNotReady".to_owned(), message };
        if let Err(error) = self.0.plan() {
            return not_ready(sentence(&error));
        }
        lock(&self.0.trouble).clone().map_or(Readiness::Ready, not_ready)
    }

    /// Takes away all that the network set up on the host: pods, bridge, table, inserted rules, ip_forward if it was set
    /// here, and the state. Answers with what was taken away, and with what could not be. Not to be used afterwards.
    pub async fn remove_everything(&self) -> Vec<String> {
        let mut told = Vec::new();
        for sandbox in self.0.known() {
            match self.detach(&sandbox).await {
                Ok(()) => told.push(format!("the network of sandbox {sandbox}")),
                Err(error) => told.push(format!("left: {}", sentence(&error))),
            }
        }
        let removed = self.submit(None, |inner, worker| Ok(inner.bridge().map(|bridge| bridge.remove(worker)))).await;
        match removed {
            Ok(Some((removed, failures))) => {
                told.extend(removed);
                told.extend(failures.iter().map(|error| format!("left: {}", sentence(error))));
            }
            Ok(None) => {}
            Err(error) => told.push(format!("left: {}", sentence(&error))),
        }
        if told.iter().any(|line| line.starts_with("left")) {
            // The next try needs it to know what is left.
            return told;
        }
        let dir = &self.0.config.state_dir;
        match fs::remove_dir_all(dir) {
            Ok(()) => told.push(dir.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => told.push(format!("left: {}: {error}", dir.display())),
        }
        told
    }
}

async fn refuse_overlap(config: &NetworkConfig) -> Result<(), NetworkError> {
    let cidr = config.pod_cidr.trunc();
    let (connection, routes) = cni_plugins::host_routes().map_err(NetworkError::Setup)?;
    // It ends with `routes`.
    tokio::spawn(connection);
    match routes.overlap(cidr, &config.bridge).await.map_err(NetworkError::Setup)? {
        Some((route, interface)) => Err(NetworkError::Overlap { cidr, route, interface }),
        None => Ok(()),
    }
}

fn adopt(bridge: &BridgeNetwork, records: &BTreeMap<String, Record>) {
    for (sandbox, record) in records {
        if let Some(attachment) = &record.attachment
            && let Err(error) = bridge.adopt(sandbox, attachment)
        {
            tracing::warn!(%sandbox, error = %sentence(&error), "the network of a sandbox can't be taken over");
        }
    }
}

impl Inner {
    fn plan(&self) -> Result<Arc<Plan>, NetworkError> {
        let mut plan = lock(&self.plan);
        if let Some(plan) = plan.as_ref() {
            return Ok(Arc::clone(plan));
        }
        let loaded = Arc::new(plan::load(&self.config, &self.boot)?);
        *plan = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    fn bridge(&self) -> Option<Arc<BridgeNetwork>> {
        lock(&self.plan).as_ref()?.bridge.clone()
    }

    /// All sandboxes of which something is known.
    fn known(&self) -> BTreeSet<String> {
        let mut known: BTreeSet<String> = lock(&self.records).keys().cloned().collect();
        known.extend(self.bridge().map(|bridge| bridge.holders()).unwrap_or_default());
        // An address that another program took in our directory has no sandbox of ours.
        known.retain(|sandbox| ContainerName::parse(sandbox.as_str()).is_ok());
        known
    }

    fn dead(&self, live: &BTreeSet<String>) -> Vec<String> {
        let known = self.known();
        let records = lock(&self.records);
        let is_young = |sandbox: &String| {
            records.get(sandbox).and_then(|entry| entry.since).is_some_and(|since| since.elapsed() < YOUNG)
        };
        let dead = known.into_iter().filter(|sandbox| !live.contains(sandbox));
        dead.filter(|sandbox| !is_young(sandbox) && !self.turns.is_busy(sandbox)).collect()
    }

    fn repair(&self, worker: &mut Worker) -> Repairs {
        self.bridge().map(|bridge| bridge.repair(worker)).unwrap_or_default()
    }

    fn attach(&self, worker: &mut Worker, request: Attach) -> Result<Attached, NetworkError> {
        let unseen = |source| NetworkError::File { step: "look at", path: request.netns_path.clone(), source };
        let namespace = NamespaceId::of(&request.netns).map_err(unseen)?;
        let plan = self.plan()?;
        let entry = lock(&self.records).get(&request.sandbox).cloned();
        if let Some(entry) = entry {
            match &entry.record.attached {
                Some(attached) if entry.record.netns == namespace => return Ok(attached.clone()),
                _ => drop(self.detach(worker, &request.sandbox)?),
            }
        }
        let netns = request.netns;
        let mut record = Record {
            sandbox: request.sandbox,
            boot: self.boot.clone(),
            netns_path: request.netns_path,
            netns: namespace,
            pod_name: request.pod_name,
            pod_namespace: request.pod_namespace,
            pod_uid: request.pod_uid,
            ports: request.ports.into_iter().filter(|port| port.host_port != 0).collect(),
            list: plan.list.clone(),
            attachment: None,
            result: None,
            attached: None,
        };
        if plan.has_programs() {
            // Programs keep state of their own: if the node dies now, the next one must know whom to run DEL for. What the
            // bundled plugins make is found in the kernel and in the address files.
            cache::write(&self.results, &record)?;
        }
        let done = self.add(worker, &plan, &mut record, netns.as_fd(), &request.dns);
        match done.and_then(|attached| cache::write(&self.results, &record).map(|()| attached)) {
            Ok(attached) => {
                let entry = Entry { record: Arc::new(record), since: Some(Instant::now()) };
                lock(&self.records).insert(entry.record.sandbox.clone(), entry);
                *lock(&self.trouble) = None;
                Ok(attached)
            }
            Err(error) => {
                for failure in self.del(worker, &plan, &record) {
                    tracing::warn!(sandbox = %record.sandbox, error = %sentence(&failure), "a failed attach can't be undone");
                }
                cache::remove(&self.results, &record.sandbox)?;
                Err(error)
            }
        }
    }

    fn add(
        &self,
        worker: &mut Worker,
        plan: &Plan,
        record: &mut Record,
        netns: BorrowedFd<'_>,
        dns: &cni_spec::Dns,
    ) -> Result<Attached, NetworkError> {
        if !plan.has_loopback() {
            cni_plugins::loopback(worker, netns).map_err(bundled("attach", &record.sandbox))?;
        }
        let runtime = runtime_config(record, dns);
        for index in 0..plan.list.plugins.len() {
            match plan.runner(plan.list.plugins[index].kind.as_str()) {
                Runner::Bridge => self.add_bridge(worker, plan, record, netns)?,
                Runner::Loopback => {
                    cni_plugins::loopback(worker, netns).map_err(bundled("attach", &record.sandbox))?;
                }
                Runner::Done => {}
                Runner::Program => {
                    let answer = self.program(Verb::Add, record, index, &runtime)?;
                    record.result = answer.or(record.result.take());
                }
            }
        }
        let attached = record.result.as_ref().map(|result| plan::attached(result, INTERFACE));
        let problem = "no address".to_owned();
        let attached = attached.filter(|attached| !attached.ips.is_empty()).ok_or_else(|| NetworkError::Answer {
            plugin: plan.list.name.to_string(),
            command: "ADD",
            problem,
        })?;
        record.attached = Some(attached.clone());
        Ok(attached)
    }

    fn add_bridge(
        &self,
        worker: &mut Worker,
        plan: &Plan,
        record: &mut Record,
        netns: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        let Some(bridge) = &plan.bridge else { return Ok(()) };
        let ports = if plan.portmap { record.ports.as_slice() } else { &[] };
        let name = format!("{}/{}", record.pod_namespace, record.pod_name);
        let pod = Pod { sandbox: &record.sandbox, name, netns, ports };
        let attachment = bridge.attach(worker, &pod).map_err(bundled("attach", &record.sandbox))?;
        record.result = Some(plan::result_of(&attachment, &record.netns_path, bridge.name()));
        record.attachment = Some(attachment);
        Ok(())
    }

    fn program(
        &self,
        verb: Verb,
        record: &Record,
        index: usize,
        runtime: &RuntimeConfig,
    ) -> Result<Option<cni_spec::AddResult>, NetworkError> {
        let args =
            record.args().args().map_err(|source| NetworkError::Args { sandbox: record.sandbox.clone(), source })?;
        let plugin = &record.list.plugins[index];
        let gone = !record.netns.is_at(&record.netns_path);
        program::call(&Call {
            verb,
            plugin: &plugin.kind,
            bin_dirs: &self.config.bin_dirs,
            sandbox: &record.sandbox,
            netns: if gone && verb == Verb::Del { Path::new("") } else { &record.netns_path },
            interface: &InterfaceName::parse(INTERFACE).expect("a constant"),
            args: &args,
            request: &record.list.request(plugin, runtime, record.result.as_ref()),
        })
    }

    /// Runs DEL of the whole list, last plugin first, to the end; answers with all that failed.
    fn del(&self, worker: &mut Worker, plan: &Plan, record: &Record) -> Vec<NetworkError> {
        let runtime = runtime_config(record, &cni_spec::Dns::default());
        let mut failures = Vec::new();
        for index in (0..record.list.plugins.len()).rev() {
            // The bridge is looked at below: its address may be known where no record is.
            if plan.runner(record.list.plugins[index].kind.as_str()) == Runner::Program
                && let Err(error) = self.program(Verb::Del, record, index, &runtime)
            {
                failures.push(error);
            }
        }
        if let Some(bridge) = &plan.bridge
            && let Err(error) = bridge.detach(worker, &record.sandbox)
        {
            failures.push(bundled("detach", &record.sandbox)(error));
        }
        failures
    }

    /// Answers with what was there: its link may live on, and flows by its host ports.
    fn detach(&self, worker: &mut Worker, sandbox: &str) -> Result<Option<Attachment>, NetworkError> {
        let record = lock(&self.records).get(sandbox).map(|entry| Arc::clone(&entry.record));
        let Some(record) = record else {
            // An attach that a crash cut off may have left an address.
            let bridge = self.bridge();
            let freed = bridge.map_or(Ok(()), |bridge| bridge.detach(worker, sandbox));
            return freed.map(|()| None).map_err(bundled("detach", sandbox));
        };
        let plan = self.plan()?;
        match self.del(worker, &plan, &record).into_iter().next() {
            Some(error) => Err(error),
            None => {
                cache::remove(&self.results, sandbox)?;
                lock(&self.records).remove(sandbox);
                Ok(record.attachment.clone())
            }
        }
    }
}

fn bundled(step: &'static str, sandbox: &str) -> impl FnOnce(BridgeError) -> NetworkError {
    let sandbox = sandbox.to_owned();
    move |source| NetworkError::Bundled { step, sandbox, source }
}

/// What the runtime gives to the plugins that ask for it.
fn runtime_config(record: &Record, dns: &cni_spec::Dns) -> RuntimeConfig {
    let mut other = Map::new();
    if !dns.nameservers.is_empty() {
        let words = json!({ "servers": dns.nameservers, "searches": dns.search, "options": dns.options });
        other.insert("dns".to_owned(), words);
    }
    RuntimeConfig { port_mappings: record.ports.clone(), other }
}
