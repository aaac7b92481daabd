//! A CRI client for tests: one method for what a test says in one breath.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use runtime_cri_api::v1::image_service_client::ImageServiceClient;
use runtime_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use runtime_cri_api::v1::{self as cri};
use tonic::transport::{Channel, Endpoint};

/// Both services of one CRI socket.
#[derive(Debug, Clone)]
pub struct Client {
    /// The runtime service.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service.
    pub images: ImageServiceClient<Channel>,
}

/// A sandbox with the configuration that its containers are created with.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// What it was made from.
    pub config: cri::PodSandboxConfig,
}

impl Client {
    /// Connects to a unix socket.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(socket: &Path) -> anyhow::Result<Client> {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await?;
        let limit = 64 * 1024 * 1024;
        Ok(Client {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(limit),
            images: ImageServiceClient::new(channel).max_decoding_message_size(limit),
        })
    }

    /// `RuntimeName VERSION`.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn version(&self) -> anyhow::Result<String> {
        let answer = self.runtime.clone().version(cri::VersionRequest::default()).await?.into_inner();
        Ok(format!("{} {}", answer.runtime_name, answer.runtime_version))
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn pull(&self, name: &str) -> anyhow::Result<String> {
        let request = cri::PullImageRequest { image: Some(spec(name)), ..Default::default() };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// Runs a sandbox.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn run(&self, config: cri::PodSandboxConfig) -> anyhow::Result<Sandbox> {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok(Sandbox { id, config })
    }

    /// Creates a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn create(&self, sandbox: &Sandbox, config: cri::ContainerConfig) -> anyhow::Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn start(&self, id: &str) -> anyhow::Result<()> {
        self.runtime.clone().start_container(cri::StartContainerRequest { container_id: id.to_owned() }).await?;
        Ok(())
    }

    /// Creates and starts a container that runs `command`.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn launch(&self, sandbox: &Sandbox, name: &str, image: &str, command: &[&str]) -> anyhow::Result<String> {
        let id = self.create(sandbox, container(name, image, command)).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// A container's status.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn status(&self, id: &str) -> anyhow::Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.runtime.clone().container_status(request).await?.into_inner().status.context("a status is there")
    }

    /// Waits for a container's end.
    ///
    /// # Errors
    /// When it hasn't ended within `limit`.
    pub async fn wait(&self, id: &str, limit: Duration) -> anyhow::Result<cri::ContainerStatus> {
        let began = Instant::now();
        loop {
            let status = self.status(id).await?;
            if status.state == cri::ContainerState::ContainerExited as i32 {
                return Ok(status);
            }
            if began.elapsed() > limit {
                bail!("container {id} is still {:?} after {limit:?}", status.state());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command in a container and returns exit code, stdout and stderr.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn exec(&self, id: &str, command: &[&str]) -> anyhow::Result<(i32, String, String)> {
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: words(command), timeout: 30 };
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((answer.exit_code, text(answer.stdout), text(answer.stderr)))
    }

    /// A shell script's output in a container; an error unless it ended with 0.
    ///
    /// # Errors
    /// When the call or the script fails.
    pub async fn shell(&self, id: &str, script: &str) -> anyhow::Result<String> {
        let (code, out, err) = self.exec(id, &["/bin/sh", "-c", script]).await?;
        if code != 0 {
            bail!("`{script}` ended with {code}: {out}{err}");
        }
        Ok(out)
    }

    /// Stops a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn stop(&self, id: &str, grace_seconds: i64) -> anyhow::Result<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        self.runtime.clone().stop_container(request).await?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn remove(&self, id: &str) -> anyhow::Result<()> {
        self.runtime.clone().remove_container(cri::RemoveContainerRequest { container_id: id.to_owned() }).await?;
        Ok(())
    }

    /// Stops and removes a sandbox with all that is in it.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn end(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let id = sandbox.id.clone();
        self.runtime.clone().stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        self.runtime.clone().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
        Ok(())
    }

    /// A sandbox's address.
    ///
    /// # Errors
    /// When the call fails or it has none.
    pub async fn address(&self, sandbox: &Sandbox) -> anyhow::Result<String> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
        let status = self.runtime.clone().pod_sandbox_status(request).await?.into_inner().status.context("a status")?;
        let network = status.network.context("a network status")?;
        if network.ip.is_empty() {
            bail!("sandbox {} has no address", sandbox.id);
        }
        Ok(network.ip)
    }
}

/// An image by name.
pub fn spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: name.to_owned(), user_specified_image: name.to_owned(), ..Default::default() }
}

/// A pod's configuration with its logs below `logs`.
pub fn pod(name: &str, logs: &Path) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.join(name).display().to_string(),
        labels: HashMap::from([("test".to_owned(), name.to_owned())]),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(cri::NamespaceMode::Pod)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same pod on the host's network.
pub fn host_network(mut config: cri::PodSandboxConfig) -> cri::PodSandboxConfig {
    if let Some(context) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        context.namespace_options = Some(namespaces(cri::NamespaceMode::Node));
    }
    config
}

/// Namespace options as the kubelet sends them: processes apart, `network` as given.
pub fn namespaces(network: cri::NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: network as i32,
        pid: cri::NamespaceMode::Container as i32,
        ipc: cri::NamespaceMode::Pod as i32,
        ..Default::default()
    }
}

/// A container's configuration as the kubelet sends it: the runtime's default filter and no new privileges.
pub fn container(name: &str, image: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(spec(image)),
        command: words(command),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(cri::NamespaceMode::Pod)),
                no_new_privs: true,
                seccomp: Some(cri::SecurityProfile {
                    profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}
