//! Quantities: `500m`, `64Mi`, `1e3`, `0.5`.

/// Parses a quantity and gives it in thousandths, rounded up as Kubernetes rounds.
pub(crate) fn milli(text: &str) -> Result<u64, &'static str> {
    const RULE: &str = "it is a number with an optional suffix (m, k, M, G, T, Ki, Mi, Gi, Ti or e3)";
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.len() > 12 || fraction.contains('.') {
        return Err(if text.starts_with('-') { "it must not be negative" } else { RULE });
    }
    // Numerator and denominator of the factor from the written number to thousandths.
    let (up, down): (u128, u128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        exponent => match exponent.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<i32>().ok()) {
            Some(power @ 0..=15) => (1_000 * 10_u128.pow(power.unsigned_abs()), 1),
            Some(power @ -9..0) => (1_000, 10_u128.pow(power.unsigned_abs())),
            _ => return Err(RULE),
        },
    };
    let digits = format!("{whole}{fraction}").parse::<u128>().map_err(|_| RULE)?;
    let down = down * 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| RULE)?);
    let value = digits.checked_mul(up).ok_or("it is too large")?.div_ceil(down);
    u64::try_from(value).map_err(|_| "it is too large")
}

/// Parses a quantity of whole units, rounded up.
pub(crate) fn whole(text: &str) -> Result<u64, &'static str> {
    milli(text).map(|milli| milli.div_ceil(1_000))
}

#[cfg(test)]
mod tests {
    use super::{milli, whole};

    #[test]
    fn quantities() {
        for (text, want) in [
            ("1", 1_000),
            ("500m", 500),
            ("0.5", 500),
            ("1.5", 1_500),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("100u", 1),
            ("+3", 3_000),
        ] {
            assert_eq!(milli(text), Ok(want), "{text}");
        }
        assert_eq!(whole("64Mi"), Ok(64 << 20));
        assert_eq!(whole("1.5Gi"), Ok(3 << 29));
        assert_eq!(whole("100m"), Ok(1));
        for bad in ["", "m", "-1", "1.2.3", "5 Mi", "1mi", "1e99", "99999999999999999999", "9999999P", ".", "0x10"] {
            assert!(milli(bad).is_err(), "{bad}");
        }
    }
}
