//! The kernel's security modules: which are on, and the labels that a container's processes and mounts get.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use runtime_lifecycle::{AppArmorChoice, Privilege, SandboxId, Security, SelinuxLabel};
use tokio::sync::watch;

use crate::EngineError;

/// The name of our profile.
const DEFAULT_PROFILE: &str = "podwright-default";

/// Its text, in AppArmor's language.
const DEFAULT_PROFILE_TEXT: &str = include_str!("lsm/podwright-default.apparmor");

/// The kernel's list of profiles.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Longest list of profiles that is read, in bytes; a desktop has some hundred of at most a hundred bytes.
const PROFILES_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Longest name of a profile, or part of a label, in bytes; the kernel takes a page.
const NAME_BYTES_MAX: usize = 1024;

/// How long the translation of our profile may take, which the first containers wait for. It takes 0.1 s, and half a
/// minute was seen on an emulated, busy machine; afterwards containers run without it.
const PARSER_DEADLINE: Duration = Duration::from_secs(300);

/// How long one request waits for it: less than the two minutes that a kubelet gives a request, which it then repeats.
const WAIT_MAX: Duration = Duration::from_secs(90);
const _: () = assert!(WAIT_MAX.as_secs() < PARSER_DEADLINE.as_secs());

/// How often the parser is asked whether it has ended.
const PARSER_POLL: Duration = Duration::from_millis(5);

/// What the running kernel has on.
#[derive(Debug)]
pub(crate) struct Modules {
    apparmor: AppArmor,
    selinux: Selinux,
}

#[derive(Debug)]
enum AppArmor {
    Off,
    /// With our profile loaded, or why it isn't.
    On {
        profiles: PathBuf,
        default: Loaded,
    },
}

/// Our profile, once it is known whether it is loaded. It is loaded once; all who need it wait for the same.
type Loaded = watch::Receiver<Option<Result<(), String>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selinux {
    Off,
    On,
}

/// The labels of one container; what is absent is left as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// The AppArmor profile of its processes.
    pub(crate) apparmor: Option<String>,
    /// The SELinux label of its processes.
    pub(crate) process: Option<String>,
    /// The SELinux label of the files of its mounts.
    pub(crate) mounts: Option<String>,
}

impl Modules {
    /// Looks, and begins to load our AppArmor profile where AppArmor is on. What was loaded is
    /// noted in the run directory, which a reboot empties as it empties the kernel.
    pub(crate) fn look(run: &Path) -> Self {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
        let apparmor = if enabled {
            let (profiles, note) = (PathBuf::from(PROFILES), run.join("apparmor-default"));
            let (loaded, default) = watch::channel(None);
            let (list, told) = (profiles.clone(), loaded.clone());
            // Behind the start: the parser takes its time, and only the first containers wait for it.
            let load = move || {
                let outcome = load_default(&list, &note);
                if let Err(why) = &outcome {
                    tracing::warn!(why, "the default AppArmor profile is not loaded: containers run without one");
                }
                loaded.send_replace(Some(outcome));
            };
            if let Err(error) = thread::Builder::new().name("apparmor".to_owned()).spawn(load) {
                told.send_replace(Some(Err(format!("no thread: {error}"))));
            }
            AppArmor::On { profiles, default }
        } else {
            AppArmor::Off
        };
        let selinux = if Path::new("/sys/fs/selinux/enforce").exists() { Selinux::On } else { Selinux::Off };
        Self { apparmor, selinux }
    }

    /// What is not as a cluster expects it, for people.
    pub(crate) fn warning(&self) -> Option<String> {
        match &self.apparmor {
            AppArmor::On { default, .. } => match &*default.borrow() {
                Some(Err(why)) => {
                    Some(format!("the default AppArmor profile is not loaded, so containers run without one: {why}"))
                }
                Some(Ok(())) | None => None,
            },
            AppArmor::Off => None,
        }
    }

    /// Waits until it is known whether our profile is loaded, where a container is to have it. Holds no thread meanwhile.
    pub(crate) async fn settled(&self, security: &Security) -> Result<(), EngineError> {
        self.settled_within(security, WAIT_MAX).await
    }

    async fn settled_within(&self, security: &Security, limit: Duration) -> Result<(), EngineError> {
        let AppArmor::On { default, .. } = &self.apparmor else { return Ok(()) };
        if security.privilege == Privilege::Privileged || security.apparmor != AppArmorChoice::RuntimeDefault {
            return Ok(());
        }
        let mut default = default.clone();
        match tokio::time::timeout(limit, default.wait_for(Option::is_some)).await {
            // Whoever was to tell is gone without a word: as if the parser had failed.
            Ok(Ok(_) | Err(_)) => Ok(()),
            Err(_) => {
                let what = "loading the default AppArmor profile, which the container is to have,".to_owned();
                Err(EngineError::Deadline { what, after: limit })
            }
        }
    }

    /// The labels of a container. A privileged one gets none, as CRI says. To be asked once it is [`Self::settled`].
    pub(crate) fn labels(&self, security: &Security, sandbox: &SandboxId) -> Result<Labels, EngineError> {
        if security.privilege == Privilege::Privileged {
            return Ok(Labels::default());
        }
        let apparmor = self.apparmor.profile(&security.apparmor)?;
        if let Some(label) = &security.selinux {
            check_selinux(label)?;
        }
        Ok(match self.selinux {
            // As under containerd: what a cluster sends for its nodes with SELinux is no error on the others.
            Selinux::Off => Labels { apparmor, ..Labels::default() },
            Selinux::On => {
                let (process, mounts) = selinux_labels(security.selinux.as_ref(), sandbox);
                Labels { apparmor, process: Some(process), mounts: Some(mounts) }
            }
        })
    }
}

impl AppArmor {
    fn profile(&self, choice: &AppArmorChoice) -> Result<Option<String>, EngineError> {
        let (profiles, default) = match (self, choice) {
            (_, AppArmorChoice::Unconfined) | (Self::Off, AppArmorChoice::RuntimeDefault) => return Ok(None),
            (Self::Off, AppArmorChoice::Localhost(name)) => {
                return Err(wrong(name, "AppArmor is not on in this node's kernel"));
            }
            (Self::On { profiles, default }, _) => (profiles, default),
        };
        let AppArmorChoice::Localhost(name) = choice else {
            let is_loaded = matches!(&*default.borrow(), Some(Ok(())));
            return Ok(is_loaded.then(|| DEFAULT_PROFILE.to_owned()));
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(wrong(name, "is no name of a profile"));
        }
        if name == "unconfined" {
            return Ok(None);
        }
        let list = read_list(profiles).map_err(|source| EngineError::Disk {
            step: "read the loaded AppArmor profiles (is securityfs mounted?)",
            path: profiles.clone(),
            source,
        })?;
        if !is_loaded(&list, name) {
            return Err(wrong(name, "is not loaded on this node: load it with `apparmor_parser -r FILE`"));
        }
        Ok(Some(name.clone()))
    }
}

fn wrong(name: &str, why: &str) -> EngineError {
    let name: String = name.chars().take(200).collect();
    EngineError::invalid(format!("AppArmor profile {name:?}"), why)
}

fn read_list(profiles: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(profiles)?.take(PROFILES_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A line of the kernel's list: the name and, in parentheses, the mode.
fn is_loaded(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name))
}

/// Translates our profile and puts it into the kernel in place of an earlier version. The kernel takes a binary form alone,
/// so without the parser there is no profile.
fn load_default(profiles: &Path, note: &Path) -> Result<(), String> {
    let is_noted = fs::read(note).is_ok_and(|text| text == DEFAULT_PROFILE_TEXT.as_bytes());
    if is_noted && read_list(profiles).is_ok_and(|list| is_loaded(&list, DEFAULT_PROFILE)) {
        return Ok(());
    }
    const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let parser = PLACES.iter().map(|place| Path::new(place).join("apparmor_parser")).find(|path| path.is_file());
    let parser = parser.ok_or("apparmor_parser is not installed (package apparmor)")?;
    let mut command = Command::new(&parser);
    command.args(["--replace", "--skip-cache", "--quiet"]).env_clear().env("PATH", PLACES.join(":")).current_dir("/");
    run(&mut command, DEFAULT_PROFILE_TEXT.as_bytes(), PARSER_DEADLINE)
        .map_err(|why| format!("{}: {why}", parser.display()))?;
    // Not noted, it is loaded again at the next start.
    let _ = fs::write(note, DEFAULT_PROFILE_TEXT);
    Ok(())
}

/// Runs a program on `input` to its end or its deadline.
fn run(command: &mut Command, input: &[u8], deadline: Duration) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(told)?;
    let ended = converse(&mut child, input, deadline);
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(told)?;
    if !ended.map_err(told)? {
        return Err(format!("took longer than {deadline:?}"));
    }
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // A page says what is wrong; the rest would only fill the log.
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    Err(format!("{status}: {}", said.trim().replace('\n', "; ")))
}

/// Whether it ended by itself. Input and messages are shorter than a pipe, so neither waits for the other.
fn converse(child: &mut Child, input: &[u8], deadline: Duration) -> io::Result<bool> {
    const _: () = assert!(DEFAULT_PROFILE_TEXT.len() < 64 * 1024);
    let end = boottime() + deadline;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // It ended without reading, and its status says why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    loop {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        if boottime() >= end {
            return Ok(false);
        }
        thread::park_timeout(PARSER_POLL);
    }
}

fn boottime() -> Duration {
    runtime_sys::clock::boottime()
}

fn check_selinux(label: &SelinuxLabel) -> Result<(), EngineError> {
    for (what, part, colons) in [
        ("user", &label.user, false),
        ("role", &label.role, false),
        ("type", &label.kind, false),
        ("level", &label.level, true),
    ] {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-,".contains(&byte) || colons && byte == b':';
        if part.len() > NAME_BYTES_MAX || !part.bytes().all(good) {
            return Err(EngineError::invalid(format!("selinux_options.{what}"), "is no part of a label"));
        }
    }
    Ok(())
}

/// The label of processes and that of files: what wasn't asked for is as other runtimes have it. The categories are the
/// pod's, so that its containers reach each other's files and no other pod's do.
fn selinux_labels(asked: Option<&SelinuxLabel>, sandbox: &SandboxId) -> (String, String) {
    let part = |of: fn(&SelinuxLabel) -> &String, default: &str| {
        asked.map(of).filter(|text| !text.is_empty()).map_or_else(|| default.to_owned(), Clone::clone)
    };
    let level = part(|label| &label.level, &level_of(sandbox));
    let (user, role) = (part(|label| &label.user, "system_u"), part(|label| &label.role, "system_r"));
    let kind = part(|label| &label.kind, "container_t");
    // Files have no role of their own.
    (format!("{user}:{role}:{kind}:{level}"), format!("{user}:object_r:container_file_t:{level}"))
}

/// Two different categories of 1024, from the sandbox's id.
fn level_of(sandbox: &SandboxId) -> String {
    let number = |at: usize| {
        sandbox.as_str().get(at..at + 8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
    };
    let one = number(0) % 1024;
    let other = (one + 1 + number(8) % 1023) % 1024;
    format!("s0:c{},c{}", one.min(other), one.max(other))
}

#[cfg(test)]
mod tests;
