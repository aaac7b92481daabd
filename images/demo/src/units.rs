//! Durations, sizes and rates as the command line takes them.

use std::time::Duration;

/// A text that is no duration, size or rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub(crate) struct UnitError {
    text: String,
    what: &'static str,
}

fn wrong(text: &str, what: &'static str) -> UnitError {
    UnitError { text: text.to_owned(), what }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// `500ms`, `3s`, `2m`, `1h`; a bare `0` as well.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || wrong(text, "duration; write 500ms, 3s, 2m or 1h");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong);
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(wrong()),
    }
}

/// Bytes: `4096`, `64Ki`, `200Mi`, `1Gi`.
pub(crate) fn bytes(text: &str) -> Result<u64, UnitError> {
    let wrong = || wrong(text, "size; write 4096, 64Ki, 200Mi or 1Gi");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let factor: u64 = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Bytes per second: `10Mi/s`.
pub(crate) fn rate(text: &str) -> Result<u64, UnitError> {
    let size = text.strip_suffix("/s").ok_or_else(|| wrong(text, "rate; write 10Mi/s"))?;
    bytes(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        for (text, milliseconds) in [("500ms", 500), ("3s", 3000), ("2m", 120_000), ("1h", 3_600_000), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, size) in [("7", 7), ("64Ki", 65_536), ("10Mi", 10_485_760), ("1Gi", 1 << 30)] {
            assert_eq!((bytes(text), rate(&format!("{text}/s"))), (Ok(size), Ok(size)), "{text}");
        }
        for text in ["", "3", "s", "-1s", "1.5s", "3 s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "Mi", "1MB", "18446744073709551615Gi"] {
            assert!(bytes(text).is_err() && rate(text).is_err(), "{text}");
        }
    }
}
