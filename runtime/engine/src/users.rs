//! Who a container runs as: from what was asked for, what the image says, and the image's own `passwd` and `group`. Pure.
//!
//! Numbers are strict. `4294967296`, `-1`, `0x0`, `+0`, ` 0`, `00`, `root:` and `:0` have each been a way to become root
//! where somebody checked for another user (CVE-2024-40635, CVE-2026-46680): whatever looks like a number is never looked
//! up as a name, and what is not exactly a number is never taken for one.

use runtime_lifecycle::{Security, SupplementalGroupsPolicy, User};

use crate::EngineError;

/// Highest id: the kernel has 32 bits, but `(uid_t) -1` means "unchanged" and tools of the image take it as signed.
const ID_MAX: u32 = i32::MAX.unsigned_abs();

/// Longest user or group name looked up; `useradd` stops at 32.
const NAME_BYTES_MAX: usize = 256;

/// Most groups a process may have (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// The image's account files; empty where it has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// Who, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// With the primary group, ascending, each once.
    pub(crate) groups: Vec<u32>,
    /// For `HOME`.
    pub(crate) home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Decides. `image_user` is the image's `USER`.
pub(crate) fn resolve(security: &Security, image_user: &str, accounts: &Accounts) -> Result<Resolved, EngineError> {
    if security.user.is_none() && security.group.is_some() {
        return Err(EngineError::invalid("run_as_group", "needs run_as_user or run_as_username beside it"));
    }
    let (user, image_group) = match &security.user {
        Some(User::Id(uid)) => (Who::Id(checked("run_as_user", *uid)?), None),
        Some(User::Name(name)) => (parse(name, "run_as_username")?, None),
        None => parse_image(image_user)?,
    };
    let account = match &user {
        Who::Id(uid) => accounts.passwd.lines().filter_map(account).find(|account| account.uid == *uid),
        Who::Name(name) => {
            Some(accounts.passwd.lines().filter_map(account).find(|account| account.name == name).ok_or_else(|| {
                EngineError::invalid(format!("user {name:?}"), "the image's /etc/passwd doesn't have it")
            })?)
        }
    };
    let uid = match &user {
        Who::Id(uid) => *uid,
        Who::Name(_) => account.as_ref().map_or(0, |account| account.uid),
    };
    let gid = match (security.group, image_group) {
        (Some(gid), _) => checked("run_as_group", gid)?,
        (None, Some(Who::Id(gid))) => gid,
        (None, Some(Who::Name(name))) => accounts
            .group
            .lines()
            .filter_map(group)
            .find(|group| group.name == name)
            .map(|group| group.gid)
            .ok_or_else(|| EngineError::invalid(format!("group {name:?}"), "the image's /etc/group doesn't have it"))?,
        (None, None) => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut groups = vec![gid];
    for gid in &security.supplemental_groups {
        groups.push(checked("supplemental_groups", *gid)?);
    }
    if security.supplemental_groups_policy == SupplementalGroupsPolicy::Merge
        && let Some(account) = &account
    {
        let member = |group: &Group<'_>| group.members.split(',').any(|member| member.trim() == account.name);
        groups.extend(accounts.group.lines().filter_map(group).filter(member).map(|group| group.gid));
    }
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(GROUPS_MAX);
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
    Ok(Resolved { uid, gid, groups, home })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Id(u32),
    Name(String),
}

fn checked(what: &str, id: u32) -> Result<u32, EngineError> {
    if id <= ID_MAX { Ok(id) } else { Err(EngineError::invalid(what, format!("{id} is above {ID_MAX}"))) }
}

/// `USER` of an image: empty, `user` or `user:group`.
fn parse_image(text: &str) -> Result<(Who, Option<Who>), EngineError> {
    if text.is_empty() {
        return Ok((Who::Id(0), None));
    }
    match text.split_once(':') {
        Some((user, group)) => Ok((parse(user, "the image's USER")?, Some(parse(group, "the image's USER")?))),
        None => Ok((parse(text, "the image's USER")?, None)),
    }
}

fn parse(text: &str, what: &str) -> Result<Who, EngineError> {
    let wrong =
        |why: &str| Err(EngineError::invalid(format!("{what} {:?}", text.chars().take(64).collect::<String>()), why));
    if text.is_empty() {
        return wrong("is empty");
    }
    if text.len() > NAME_BYTES_MAX {
        return wrong("is too long");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return wrong("has leading zeros");
        }
        return match text.parse() {
            Ok(id) if id <= ID_MAX => Ok(Who::Id(id)),
            _ => wrong("is above 2147483647"),
        };
    }
    let name =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@' | b'$') || byte >= 0x80;
    let first = text.as_bytes()[0];
    if !text.bytes().all(name) || first == b'-' || first.is_ascii_digit() && text.starts_with("0x") {
        return wrong("is neither a number nor a user name");
    }
    Ok(Who::Name(text.to_owned()))
}

/// A line of passwd; a malformed one is passed over. Its numbers are as strict as ours.
fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let uid = number(fields.next()?)?;
    let gid = number(fields.next()?)?;
    let _comment = fields.next();
    let home = fields.next().unwrap_or("");
    // A name of digits is one that somebody may take for a number.
    let misleading = name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit());
    Some(Account { name: if misleading { "\0" } else { name }, uid, gid, home })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let gid = number(fields.next()?)?;
    Some(Group { name, gid, members: fields.next().unwrap_or("") })
}

fn number(text: &str) -> Option<u32> {
    let strict = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    strict.then(|| text.parse().ok()).flatten().filter(|id| *id <= ID_MAX)
}

#[cfg(test)]
mod tests {
    use runtime_lifecycle::{Security, SupplementalGroupsPolicy, User};

    use super::{Accounts, Resolved, resolve};

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:101:102:Web:/srv/web:/bin/false\n\
                     web:x:0:0:again:/:/bin/sh\n1000:x:0:0:digits:/:/bin/sh\nhuge:x:4294967296:0::/:\n\
                     neg:x:-1:0::/:\nodd:x:7:7::relative:/bin/sh\n"
                .to_owned(),
            group: "root:x:0:root\nwww:x:102:\nlogs:x:200:web,other\nmore:x:201:other,web\nbad:x:zz:web\n".to_owned(),
        }
    }

    fn check(image: &str, expected: Option<(u32, u32, &[u32], &str)>) {
        let told = resolve(&Security::default(), image, &accounts());
        match expected {
            Some((uid, gid, groups, home)) => assert_eq!(
                told.expect(image),
                Resolved { uid, gid, groups: groups.to_vec(), home: home.to_owned() },
                "{image:?}"
            ),
            None => assert!(told.is_err(), "{image:?} gave {told:?}"),
        }
    }

    #[test]
    fn the_image_user() {
        check("", Some((0, 0, &[0], "/root")));
        check("0", Some((0, 0, &[0], "/root")));
        check("root", Some((0, 0, &[0], "/root")));
        check("web", Some((101, 102, &[102, 200, 201], "/srv/web")));
        check("101", Some((101, 102, &[102, 200, 201], "/srv/web")));
        check("web:logs", Some((101, 200, &[200, 201], "/srv/web")));
        check("web:7", Some((101, 7, &[7, 200, 201], "/srv/web")));
        check("1000", Some((1000, 0, &[0], "/")));
        check("1000:1000", Some((1000, 1000, &[1000], "/")));
        check("odd", Some((7, 7, &[7], "/")));
        check("2147483647", Some((2_147_483_647, 0, &[0], "/")));
    }

    #[test]
    fn tricks_are_refused() {
        for text in [
            "2147483648",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "-1",
            "+0",
            " 0",
            "0 ",
            "00",
            "0001",
            "0x0",
            "root:",
            ":0",
            ":",
            "root:0:0",
            "nobody",
            "web:nogroup",
            "huge",
            "neg",
            "-web",
            "a b",
            "ro\0ot",
            "root\n",
            "1000\n",
            "#0",
            "../root",
        ] {
            check(text, None);
        }
        check(&"a".repeat(300), None);
    }

    #[test]
    fn what_was_asked_for_wins() {
        let asked = |user, group: Option<u32>, groups: &[u32], policy| {
            let security = Security {
                user,
                group,
                supplemental_groups: groups.to_vec(),
                supplemental_groups_policy: policy,
                ..Security::default()
            };
            resolve(&security, "root", &accounts()).map(|told| (told.uid, told.gid, told.groups))
        };
        use SupplementalGroupsPolicy::{Merge, Strict};
        let web = || Some(User::Name("web".to_owned()));
        assert_eq!(asked(Some(User::Id(101)), None, &[], Merge).expect("good"), (101, 102, vec![102, 200, 201]));
        assert_eq!(asked(web(), Some(5), &[9, 9], Merge).expect("good"), (101, 5, vec![5, 9, 200, 201]));
        assert_eq!(asked(web(), Some(5), &[9], Strict).expect("good"), (101, 5, vec![5, 9]));
        assert_eq!(asked(Some(User::Id(1234)), None, &[], Merge).expect("good"), (1234, 0, vec![0]));
        assert_eq!(asked(Some(User::Name("1000".to_owned())), None, &[], Merge).expect("good"), (1000, 0, vec![0]));
        assert!(asked(None, Some(5), &[], Merge).is_err());
        assert!(asked(Some(User::Id(u32::MAX)), None, &[], Merge).is_err());
        assert!(asked(Some(User::Name("0x0".to_owned())), None, &[], Merge).is_err());
    }

    #[test]
    fn no_files_at_all() {
        let told = resolve(&Security::default(), "", &Accounts::default()).expect("root needs no file");
        assert_eq!((told.uid, told.gid, told.home.as_str()), (0, 0, "/"));
        assert!(resolve(&Security::default(), "web", &Accounts::default()).is_err());
    }
}
