//! Moments as RFC 3339 in UTC with nanoseconds, as fast as a log needs them.

/// Length of `2026-11-21T08:43:37.123456789Z`.
const STAMP_BYTES: usize = 30;
/// Length of the part that changes once a second, with its point.
const SECOND_BYTES: usize = 20;

/// Writes moments; keeps the calendar part of the last second, since most lines share it with the line before.
#[derive(Debug)]
pub(crate) struct Stamp {
    second: i64,
    text: [u8; STAMP_BYTES],
}

impl Stamp {
    pub(crate) fn new() -> Self {
        let mut stamp = Self { second: 0, text: *b"0000-00-00T00:00:00.000000000Z" };
        stamp.calendar();
        stamp
    }

    /// The text of a moment in nanoseconds since the epoch.
    pub(crate) fn text(&mut self, unix_nanos: i64) -> &[u8] {
        let second = unix_nanos.div_euclid(1_000_000_000);
        if second != self.second {
            self.second = second;
            self.calendar();
        }
        digits(&mut self.text[SECOND_BYTES..STAMP_BYTES - 1], unix_nanos.rem_euclid(1_000_000_000));
        &self.text
    }

    fn calendar(&mut self) {
        let (year, month, day) = civil(self.second.div_euclid(86_400));
        let rest = self.second.rem_euclid(86_400);
        digits(&mut self.text[0..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], rest / 3600);
        digits(&mut self.text[14..16], rest / 60 % 60);
        digits(&mut self.text[17..19], rest % 60);
    }
}

/// Fills `place` with the last decimal digits of `value`.
fn digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
        value = value.div_euclid(10);
    }
}

/// Year, month and day of a day since 1970-01-01. Counts in years that begin in March, so that the leap day is the last.
fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    // 0000-03-01 is 719,468 days before the epoch.
    let from_march = day + 719_468;
    let era = from_march.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = from_march.rem_euclid(DAYS_OF_400_YEARS);
    let leaps = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 153 days in every five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_the_calendar_has_them() {
        let cases: &[(i64, &str)] = &[
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_795_250_617_123_456_789, "2026-11-21T08:43:37.123456789Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (951_868_799_999_999_999, "2000-02-29T23:59:59.999999999Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (4_107_456_000_000_000_000, "2100-02-28T00:00:00.000000000Z"),
            (1_704_067_199_000_000_000, "2023-12-31T23:59:59.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ];
        let mut stamp = Stamp::new();
        for (nanos, text) in cases {
            assert_eq!(String::from_utf8_lossy(stamp.text(*nanos)), *text);
            assert_eq!(stamp.text(*nanos), text.as_bytes(), "the same again, from the kept second");
        }
    }

    #[test]
    fn every_day_of_five_centuries_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..182_621 {
            assert_eq!(civil(number), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == last => (year, month + 1, 1),
                (_, day) => (year, month, day + 1),
            };
        }
    }
}
