//! Carrying actions out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use kubelet_shim_manifest::{Pod, PullPolicy};
use kubelet_shim_reconcile::{Action, Done, Event, Fault, Hook, Outcome, ProbeKind, ProbeResult, Token};
use runtime_cri_api::v1;
use tonic::Status;

use crate::{
    AgentConfig,
    cri::Cri,
    probe::{self, Client, Target},
    words,
};

/// What carrying out needs.
#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) config: AgentConfig,
    pub(crate) cri: Cri,
    pub(crate) client: Client,
}

/// What an action needs to know of its pod.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) pod: Arc<Pod>,
    pub(crate) ip: Option<String>,
    /// The attempt of the sandbox that runs.
    pub(crate) sandbox_attempt: u32,
}

/// What came of an action, and what to tell.
pub(crate) type Deed = (Option<Done>, Vec<Event>);

fn fault(status: &Status) -> Fault {
    Fault { reason: String::new(), message: status.message().to_owned() }
}

fn plain(token: Token, answer: Result<(), Status>) -> Option<Done> {
    Some(Done { token, outcome: Outcome::Plain(answer.map_err(|status| fault(&status))) })
}

fn named(token: Token, answer: Result<String, Fault>) -> Option<Done> {
    Some(Done { token, outcome: Outcome::Named(answer) })
}

impl Hands {
    pub(crate) fn volumes_root(&self) -> PathBuf {
        self.config.state_dir.join("volumes")
    }

    pub(crate) async fn act(&self, subject: Subject, action: Action) -> Deed {
        let mut events = Vec::new();
        let done = match action {
            Action::PullImage { token, container, image, policy } => {
                let (answer, event) = self.pull(&subject, &container, &image, policy).await;
                events.extend(event);
                named(token, answer)
            }
            Action::RunSandbox { token, attempt } => named(token, self.run_sandbox(&subject, attempt).await),
            Action::CreateContainer { token, container, attempt, sandbox, image } => {
                named(token, self.create(&subject, (&container, attempt), &sandbox, &image).await)
            }
            Action::StartContainer { token, id, .. } => plain(token, self.cri.start(&id).await),
            Action::StopContainer { token, id, grace, .. } => plain(token, self.cri.stop(&id, grace).await),
            Action::RemoveContainer { token, id } => plain(token, self.cri.remove(&id).await),
            Action::StopSandbox { token, id } => plain(token, self.cri.stop_sandbox(&id).await),
            Action::RemoveSandbox { token, id } => plain(token, self.cri.remove_sandbox(&id).await),
            Action::Probe { token, container, id, kind } => {
                let (result, message) = self.probe(&subject, &container, id, kind).await;
                Some(Done { token, outcome: Outcome::Probed(result, message) })
            }
            Action::RunHook { token, container, id, hook, timeout } => {
                let lifecycle = subject.pod.container(&container).map(|container| &container.lifecycle);
                let handler = lifecycle.and_then(|lifecycle| match hook {
                    Hook::PostStart => lifecycle.post_start.as_ref(),
                    Hook::PreStop => lifecycle.pre_stop.as_ref(),
                });
                let target = Target { id, ip: subject.ip.clone().unwrap_or_default() };
                let answer = match handler {
                    Some(handler) => probe::hook(&self.cri, &self.client, &target, handler, timeout).await,
                    None => Ok(()),
                };
                let answer = answer.map_err(|message| Fault { reason: String::new(), message });
                Some(Done { token, outcome: Outcome::Plain(answer) })
            }
            // The pod's own loop does these.
            Action::Report(_) | Action::Forget => None,
        };
        (done, events)
    }

    async fn probe(&self, subject: &Subject, name: &str, id: String, kind: ProbeKind) -> (ProbeResult, String) {
        let container = subject.pod.container(name);
        let spec = container.and_then(|container| match kind {
            ProbeKind::Startup => container.startup.as_ref(),
            ProbeKind::Liveness => container.liveness.as_ref(),
            ProbeKind::Readiness => container.readiness.as_ref(),
        });
        let Some(spec) = spec else { return (ProbeResult::Error, "the container has no such probe".to_owned()) };
        let target = Target { id, ip: subject.ip.clone().unwrap_or_default() };
        probe::probe(&self.cri, &self.client, &target, spec).await
    }

    async fn pull(
        &self,
        subject: &Subject,
        container: &str,
        image: &str,
        policy: PullPolicy,
    ) -> (Result<String, Fault>, Option<Event>) {
        let told = |message: String| {
            Some(Event { warning: false, container: container.to_owned(), reason: "Pulled".to_owned(), message })
        };
        let failed = |reason: &str, message: String| (Err(Fault { reason: reason.to_owned(), message }), None);
        if policy != PullPolicy::Always {
            match self.cri.image(image).await {
                Ok(Some(found)) => {
                    return (Ok(found.id), told(format!("Container image \"{image}\" already present on machine")));
                }
                Ok(None) if policy == PullPolicy::Never => {
                    let text = format!("Container image \"{image}\" is not present with pull policy of Never");
                    return failed("ErrImageNeverPull", text);
                }
                Ok(None) => {}
                Err(status) => return failed("ErrImagePull", status.message().to_owned()),
            }
        }
        let began = Instant::now();
        let sandbox = words::sandbox(&self.config, &subject.pod, subject.sandbox_attempt);
        match self.cri.pull(image, sandbox).await {
            Ok(reference) => {
                let text = format!("Successfully pulled image \"{image}\" in {:.3}s", began.elapsed().as_secs_f64());
                (Ok(reference), told(text))
            }
            Err(status) => failed("ErrImagePull", status.message().to_owned()),
        }
    }

    async fn run_sandbox(&self, subject: &Subject, attempt: u32) -> Result<String, Fault> {
        let (pod, root) = (Arc::clone(&subject.pod), self.volumes_root());
        // A host path on a dead file system must not hold up a worker.
        let made = tokio::task::spawn_blocking(move || kubelet_shim_volumes::apply(&pod, &root)).await;
        let message = match made {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(message) = message {
            return Err(Fault { reason: "FailedMount".to_owned(), message });
        }
        let logs = words::log_directory(&self.config, &subject.pod);
        tokio::fs::create_dir_all(&logs).await.map_err(|error| Fault {
            reason: String::new(),
            message: format!("cannot make the log directory {}: {error}", logs.display()),
        })?;
        let config = words::sandbox(&self.config, &subject.pod, attempt);
        self.cri.run_sandbox(config).await.map_err(|status| fault(&status))
    }

    async fn create(
        &self,
        subject: &Subject,
        (name, attempt): (&str, u32),
        sandbox: &str,
        image: &str,
    ) -> Result<String, Fault> {
        let pod = &subject.pod;
        let Some(container) = pod.container(name) else {
            return Err(Fault { reason: String::new(), message: format!("no container `{name}`") });
        };
        let not_root = &container.security.runs_as;
        if not_root.non_root && not_root.user.is_none() {
            self.check_user(&container.image).await?;
        }
        let (subject_pod, root) = (Arc::clone(pod), self.volumes_root());
        let volumes = tokio::task::spawn_blocking(move || kubelet_shim_volumes::apply(&subject_pod, &root)).await;
        let volumes: BTreeMap<String, PathBuf> = match volumes {
            Ok(Ok(volumes)) => volumes,
            Ok(Err(error)) => return Err(config_error(error.to_string())),
            Err(error) => return Err(config_error(error.to_string())),
        };
        let logs = words::log_directory(&self.config, pod).join(name);
        tokio::fs::create_dir_all(&logs)
            .await
            .map_err(|error| config_error(format!("cannot make the log directory {}: {error}", logs.display())))?;
        let hosts = self.hosts(subject).await?;
        let around = words::Surroundings {
            config: &self.config,
            pod,
            ip: subject.ip.as_deref(),
            volumes: &volumes,
            hosts: hosts.as_deref(),
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(words::container(&around, container, attempt, image)),
            sandbox_config: Some(words::sandbox(&self.config, pod, subject.sandbox_attempt)),
        };
        self.cri.create(request).await.map_err(|status| fault(&status))
    }

    /// `runAsNonRoot` without a user: the image has to name one.
    async fn check_user(&self, image: &str) -> Result<(), Fault> {
        let found = self.cri.image(image).await.map_err(|status| fault(&status))?;
        let Some(found) = found else { return Err(config_error(format!("image \"{image}\" is gone"))) };
        match (found.uid.map(|uid| uid.value), found.username.as_str()) {
            (Some(0), _) | (None, "" | "root") => Err(config_error(format!(
                "container has runAsNonRoot and image \"{image}\" will run as root: set runAsUser"
            ))),
            (Some(_), _) => Ok(()),
            (None, name) => Err(config_error(format!(
                "container has runAsNonRoot and image \"{image}\" has the non-numeric user `{name}`: set runAsUser"
            ))),
        }
    }

    /// The hosts file of a pod with `hostAliases`; the others have the runtime's.
    async fn hosts(&self, subject: &Subject) -> Result<Option<PathBuf>, Fault> {
        let pod = &subject.pod;
        if pod.host_aliases.is_empty() {
            return Ok(None);
        }
        let path = self.config.state_dir.join("pods").join(format!("{}.hosts", pod.metadata.uid));
        let text = hosts_text(pod, subject.ip.as_deref());
        tokio::fs::write(&path, text)
            .await
            .map_err(|error| config_error(format!("cannot write {}: {error}", path.display())))?;
        Ok(Some(path))
    }

    /// Takes away what the pod had on the host besides its sandbox.
    pub(crate) async fn clean(&self, pod: &Pod) -> Result<(), String> {
        let (root, uid) = (self.volumes_root(), pod.metadata.uid.clone());
        let logs = words::log_directory(&self.config, pod);
        let hosts = self.config.state_dir.join("pods").join(format!("{uid}.hosts"));
        let work = move || {
            kubelet_shim_volumes::remove(&root, &uid).map_err(|error| error.to_string())?;
            let name = logs.file_name().map(Path::new).unwrap_or(Path::new(""));
            let parent = logs.parent().unwrap_or(Path::new("/"));
            kubelet_shim_volumes::remove(parent, &name.to_string_lossy()).map_err(|error| error.to_string())?;
            match std::fs::remove_file(&hosts) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(format!("cannot remove {}: {error}", hosts.display()))
                }
                _ => Ok(()),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
    }
}

fn config_error(message: String) -> Fault {
    Fault { reason: "CreateContainerConfigError".to_owned(), message }
}

fn hosts_text(pod: &Pod, ip: Option<&str>) -> String {
    let mut text = if pod.host_network {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        let own = ip.map(|ip| format!("{ip}\t{}\n", pod.hostname)).unwrap_or_default();
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
    };
    for alias in &pod.host_aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    text
}
