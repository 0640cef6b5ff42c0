//! Times of upload (PEP 700), as indexes and people write them: RFC 3339, or a date alone.

/// Seconds since 1970. A date alone is the end of that day in UTC; of a time the fraction is left out.
pub fn seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let (date, time) = match text.split_at_checked(10)? {
        (date, "") => (date, None),
        (date, rest) => (date, Some(rest.strip_prefix(['T', 't', ' '])?)),
    };
    let midnight = days(date)?.checked_mul(86_400)?;
    let Some(time) = time else { return Some(midnight + 86_399) };
    let (clock, offset) = offset(time)?;
    let clock = clock.split('.').next()?;
    let numbers: Vec<i64> = clock.split(':').map(|part| number(part, 2)).collect::<Option<_>>()?;
    match numbers.as_slice() {
        // 60 is a leap second.
        [hour @ 0..=23, minute @ 0..=59, second @ 0..=60] => {
            Some(midnight + hour * 3600 + minute * 60 + second - offset)
        }
        _ => None,
    }
}

/// What stands before the offset, and the offset in seconds.
fn offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let place = time.rfind(['+', '-'])?;
    let (clock, offset) = time.split_at(place);
    let (hours, minutes) = offset[1..].split_once(':')?;
    let length = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
    Some((clock, if offset.starts_with('-') { -length } else { length }))
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since 1970 of `YYYY-MM-DD`, proleptic Gregorian.
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let (year, month, day) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month - 1).ok()?)?;
    if parts.next().is_some() || year < 1 || !(1..=length).contains(&day) {
        return None;
    }
    let before = year - 1;
    let years = before * 365 + before / 4 - before / 100 + before / 400 - 719_162;
    Some(years + lengths.iter().take(usize::try_from(month - 1).ok()?).sum::<i64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn dates_and_times_are_read_as_rfc_3339_has_them() {
        let table = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01", Some(86_399)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2024-02-29T12:30:15.123456Z", Some(1_709_209_815)),
            ("2024-02-29t14:30:15+02:00", Some(1_709_209_815)),
            ("2024-02-29 07:30:15-05:00", Some(1_709_209_815)),
            ("2023-02-29", None),
            ("2024-13-01", None),
            ("2024-1-1", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T25:00:00Z", None),
            ("yesterday", None),
            ("é024-01-01", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
