use runtime_lifecycle::{AppArmorChoice, Privilege, Security, SelinuxLabel};

use super::*;
use crate::Kind;

fn sandbox() -> SandboxId {
    SandboxId::from_random([0xab; 32])
}

fn settled(outcome: Result<(), String>) -> Loaded {
    watch::channel(Some(outcome)).1
}

fn modules(apparmor: AppArmor, selinux: Selinux) -> Modules {
    Modules { apparmor, selinux }
}

fn on(dir: &Path, default: Result<(), String>) -> AppArmor {
    let profiles = dir.join("profiles");
    fs::write(
        &profiles,
        "/usr/sbin/tcpdump (enforce)\nwith blank (complain)\nodd (name) (enforce)\npodwright-default (enforce)\n",
    )
    .expect("writes");
    AppArmor::On { profiles, default: settled(default) }
}

fn asked(apparmor: AppArmorChoice) -> Security {
    Security { apparmor, ..Security::default() }
}

#[test]
fn which_profile() {
    let dir = tempfile::tempdir().expect("a directory");
    let check = |apparmor: AppArmor, choice: AppArmorChoice, expected: Result<Option<&str>, Kind>| {
        let told = modules(apparmor, Selinux::Off).labels(&asked(choice.clone()), &sandbox());
        match expected {
            Ok(profile) => assert_eq!(told.expect("good").apparmor.as_deref(), profile, "{choice:?}"),
            Err(kind) => assert_eq!(told.expect_err("refused").kind(), kind, "{choice:?}"),
        }
    };
    let named = |name: &str| AppArmorChoice::Localhost(name.to_owned());
    let loaded = || on(dir.path(), Ok(()));
    check(loaded(), AppArmorChoice::RuntimeDefault, Ok(Some("podwright-default")));
    check(loaded(), AppArmorChoice::Unconfined, Ok(None));
    check(loaded(), named("/usr/sbin/tcpdump"), Ok(Some("/usr/sbin/tcpdump")));
    check(loaded(), named("with blank"), Ok(Some("with blank")));
    check(loaded(), named("odd (name)"), Ok(Some("odd (name)")));
    check(loaded(), named("unconfined"), Ok(None));
    for absent in ["non-existent-profile", "", "odd", "/usr/sbin/tcpdump (enforce)", "a\nb", "a\0"] {
        check(loaded(), named(absent), Err(Kind::Invalid));
    }
    check(on(dir.path(), Err("no parser".to_owned())), AppArmorChoice::RuntimeDefault, Ok(None));
    check(AppArmor::Off, AppArmorChoice::RuntimeDefault, Ok(None));
    check(AppArmor::Off, AppArmorChoice::Unconfined, Ok(None));
    check(AppArmor::Off, named("x"), Err(Kind::Invalid));
    let unreadable = AppArmor::On { profiles: dir.path().join("none"), default: settled(Ok(())) };
    check(unreadable, named("x"), Err(Kind::Internal));
}

#[test]
fn a_privileged_container_has_none_and_the_lack_of_ours_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let on = modules(on(dir.path(), Err("no parser".to_owned())), Selinux::On);
    let privileged =
        Security { privilege: Privilege::Privileged, ..asked(AppArmorChoice::Localhost("none".to_owned())) };
    assert_eq!(on.labels(&privileged, &sandbox()).expect("good"), Labels::default());
    assert!(on.warning().expect("told").contains("no parser"));
    assert_eq!(modules(AppArmor::Off, Selinux::Off).warning(), None);
}

#[test]
fn selinux_labels_are_the_pods_where_it_is_on() {
    let label = |level: &str, kind: &str| SelinuxLabel {
        level: level.to_owned(),
        kind: kind.to_owned(),
        ..SelinuxLabel::default()
    };
    let told = |selinux, of: Option<SelinuxLabel>| {
        let security = Security { selinux: of, ..Security::default() };
        modules(AppArmor::Off, selinux).labels(&security, &sandbox()).map(|labels| (labels.process, labels.mounts))
    };
    assert_eq!(told(Selinux::Off, Some(label("s0:c1,c2", "x_t"))).expect("kept and ignored"), (None, None));
    let (process, mounts) = told(Selinux::On, None).expect("good");
    let level = level_of(&sandbox());
    assert_eq!(process, Some(format!("system_u:system_r:container_t:{level}")));
    assert_eq!(mounts, Some(format!("system_u:object_r:container_file_t:{level}")));
    let (process, mounts) = told(Selinux::On, Some(label("s0:c1,c2", "mine_t"))).expect("good");
    assert_eq!(process.as_deref(), Some("system_u:system_r:mine_t:s0:c1,c2"));
    assert_eq!(mounts.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
    for selinux in [Selinux::Off, Selinux::On] {
        assert_eq!(told(selinux, Some(label("", "a:b"))).expect_err("refused").kind(), Kind::Invalid);
        assert_eq!(told(selinux, Some(label("s0\n", ""))).expect_err("refused").kind(), Kind::Invalid);
    }
    for byte in 0..=255 {
        let level = level_of(&SandboxId::from_random([byte; 32]));
        let (one, other) = level.strip_prefix("s0:c").and_then(|rest| rest.split_once(",c")).expect("two categories");
        let (one, other): (u32, u32) = (one.parse().expect("a number"), other.parse().expect("a number"));
        assert!(one < other && other < 1024, "{level}");
    }
}

#[test]
fn a_parser_that_hangs_or_fails_is_told() {
    let shell = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    };
    let second = Duration::from_secs(1);
    assert_eq!(run(&mut shell("cat >/dev/null"), b"x", Duration::from_secs(20)), Ok(()));
    let failed = run(&mut shell("echo one >&2; echo two >&2; exit 3"), b"x", Duration::from_secs(20));
    assert_eq!(failed, Err("exit status: 3: one; two".to_owned()));
    assert_eq!(run(&mut shell("exec sleep 60"), b"x", second), Err("took longer than 1s".to_owned()));
}

#[tokio::test]
async fn all_wait_for_the_one_load_and_none_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let (loaded, default) = watch::channel(None);
    let apparmor = AppArmor::On { profiles: dir.path().join("profiles"), default };
    let modules = modules(apparmor, Selinux::Off);
    let asked_default = asked(AppArmorChoice::RuntimeDefault);
    let soon = Duration::from_millis(50);
    // Who needs none doesn't wait.
    let privileged = Security { privilege: Privilege::Privileged, ..asked_default.clone() };
    for security in [privileged, asked(AppArmorChoice::Unconfined), asked(AppArmorChoice::Localhost("x".to_owned()))] {
        modules.settled_within(&security, soon).await.expect("at once");
    }
    let late = modules.settled_within(&asked_default, soon).await.expect_err("it takes too long");
    assert_eq!(late.kind(), Kind::DeadlineExceeded, "{late}");
    // The one thread of this test runs all of them and the load.
    let load = async {
        tokio::time::sleep(soon).await;
        loaded.send_replace(Some(Ok(())));
    };
    let patient = || modules.settled(&asked_default);
    let (waited, ()) = tokio::join!(async { tokio::try_join!(patient(), patient()) }, load);
    waited.expect("loaded");
    let labels = modules.labels(&asked_default, &sandbox()).expect("good");
    assert_eq!(labels.apparmor.as_deref(), Some("podwright-default"));
    // Whoever was to tell is gone without a word.
    let (_, default) = watch::channel(None);
    let silent =
        super::Modules { apparmor: AppArmor::On { profiles: dir.path().join("profiles"), default }, ..modules };
    silent.settled(&asked_default).await.expect("known");
    assert_eq!(silent.labels(&asked_default, &sandbox()).expect("good").apparmor, None);
}
