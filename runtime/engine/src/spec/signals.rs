//! Names and numbers of signals.

use crate::EngineError;

/// Ends a process that can't refuse.
pub(crate) const SIGKILL: i32 = 9;

/// Asks a process to end.
const SIGTERM: i32 = 15;

/// Highest number.
const SIGRTMAX: i32 = 64;

/// First of the real-time ones; glibc and musl keep those below for themselves.
const SIGRTMIN: i32 = 34;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NAMES: [(&str, i32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// The signal that asks a container to end: as asked for, else the image's, else SIGTERM.
pub(crate) fn stop_signal(asked: Option<i32>, image: Option<&str>) -> Result<i32, EngineError> {
    match (asked, image) {
        (Some(number), _) if (1..=SIGRTMAX).contains(&number) => Ok(number),
        (Some(number), _) => Err(EngineError::invalid("stop_signal", format!("{number} is not a signal"))),
        (None, Some(text)) if !text.is_empty() => parse(text).ok_or_else(|| {
            EngineError::invalid("the image's StopSignal", format!("{:?} is not a signal", short(text)))
        }),
        (None, _) => Ok(SIGTERM),
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

fn parse(text: &str) -> Option<i32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (1..=SIGRTMAX).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<u8>().ok().map(i32::from),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        SIGRTMIN + offset(rest.strip_prefix('+').unwrap_or(rest))?
    } else {
        SIGRTMAX - offset(name.strip_prefix("RTMAX")?.trim_start_matches('-'))?
    };
    (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::stop_signal;

    #[test]
    fn names_and_numbers() {
        for (asked, image, number) in [
            (None, None, Some(15)),
            (None, Some(""), Some(15)),
            (None, Some("SIGQUIT"), Some(3)),
            (None, Some("quit"), Some(3)),
            (None, Some("9"), Some(9)),
            (None, Some("SIGRTMIN+3"), Some(37)),
            (None, Some("SIGRTMAX-1"), Some(63)),
            (None, Some("RTMAX"), Some(64)),
            (None, Some("0"), None),
            (None, Some("65"), None),
            (None, Some("SIGRTMIN+40"), None),
            (None, Some("SIGRTMIN+x"), None),
            (None, Some("SIGNOPE"), None),
            (None, Some("999999999999"), None),
            (Some(10), Some("SIGNOPE"), Some(10)),
            (Some(0), None, None),
            (Some(65), None, None),
        ] {
            assert_eq!(stop_signal(asked, image).ok(), number, "{asked:?} {image:?}");
        }
    }
}
