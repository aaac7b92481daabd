//! CRI's 65 signals and Linux' numbers.

use runtime_cri_api::v1::Signal;
use tonic::Status;

use super::known;

/// By CRI's number from 1 (SIGABRT) to 34 (SIGXFSZ); CRI orders by name.
const NUMBERS: [i32; 34] = [
    6, 14, 7, 17, 17, 18, 8, 1, 4, 2, 29, 6, 9, 13, 29, 27, 30, 3, 11, 16, 19, 31, 15, 5, 20, 21, 22, 23, 10, 12, 26,
    28, 24, 25,
];

/// CRI's number of SIGRTMIN, which is 34 on Linux; the real-time ones follow without a gap.
const REAL_TIME: i32 = 35;

/// `None`: the runtime decides.
pub(super) fn number(signal: i32) -> Result<Option<i32>, Status> {
    let signal = i32::from(known::<Signal>("stop_signal", signal)?);
    if signal >= REAL_TIME {
        return Ok(Some(signal - 1));
    }
    Ok(usize::try_from(signal - 1).ok().and_then(|at| NUMBERS.get(at)).copied())
}

/// CRI's name of a Linux number.
pub(crate) fn name(number: i32) -> Signal {
    if number >= REAL_TIME - 1 {
        return Signal::try_from(number + 1).unwrap_or(Signal::RuntimeDefault);
    }
    let at = NUMBERS.iter().position(|known| *known == number).and_then(|at| i32::try_from(at + 1).ok());
    at.and_then(|at| Signal::try_from(at).ok()).unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use runtime_cri_api::v1::Signal;

    use super::{name, number};

    #[test]
    fn both_ways() {
        for (signal, linux) in [
            (Signal::Sigabrt, 6),
            (Signal::Sigalrm, 14),
            (Signal::Sigbus, 7),
            (Signal::Sigchld, 17),
            (Signal::Sigcont, 18),
            (Signal::Sigfpe, 8),
            (Signal::Sighup, 1),
            (Signal::Sigill, 4),
            (Signal::Sigint, 2),
            (Signal::Sigio, 29),
            (Signal::Sigkill, 9),
            (Signal::Sigpipe, 13),
            (Signal::Sigprof, 27),
            (Signal::Sigpwr, 30),
            (Signal::Sigquit, 3),
            (Signal::Sigsegv, 11),
            (Signal::Sigstkflt, 16),
            (Signal::Sigstop, 19),
            (Signal::Sigsys, 31),
            (Signal::Sigterm, 15),
            (Signal::Sigtrap, 5),
            (Signal::Sigtstp, 20),
            (Signal::Sigttin, 21),
            (Signal::Sigttou, 22),
            (Signal::Sigurg, 23),
            (Signal::Sigusr1, 10),
            (Signal::Sigusr2, 12),
            (Signal::Sigvtalrm, 26),
            (Signal::Sigwinch, 28),
            (Signal::Sigxcpu, 24),
            (Signal::Sigxfsz, 25),
            (Signal::Sigrtmin, 34),
            (Signal::Sigrtminplus15, 49),
            (Signal::Sigrtmaxminus14, 50),
            (Signal::Sigrtmax, 64),
        ] {
            assert_eq!(number(signal.into()).expect("known"), Some(linux), "{signal:?}");
            assert_eq!(name(linux), signal);
        }
        assert_eq!(number(0).expect("known"), None);
        assert!(number(66).is_err());
        assert!(number(-1).is_err());
    }
}
