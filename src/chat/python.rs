//! What templates take from Python: `json.dumps` and `datetime.strftime`.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::platform::unix_seconds;

/// What `strftime_now` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock, in UTC.
    System,
    /// Always this moment: seconds since 1970 in UTC.
    At(i64),
}

impl Clock {
    /// `datetime.strftime` in English, with the codes that stand for date and time of day.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let now = match self {
            Self::System => unix_seconds(),
            Self::At(seconds) => seconds,
        };
        let (days, seconds) = (now.div_euclid(86_400), now.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let weekday = (days + 4).rem_euclid(7) as usize; // 1 January 1970 was a Thursday; Sunday is 0
        let day_of_year = days - days_since_1970(year, 1, 1) + 1;
        let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[weekday]);
        let hour_12 = (hour + 11) % 12 + 1;

        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                text.push(char);
                continue;
            }
            let mut code = chars.next();
            let is_bare = code == Some('-'); // glibc's: without leading zeros
            if is_bare {
                code = chars.next();
            }
            let number = |value: i64, width: usize| match is_bare {
                true => value.to_string(),
                false => format!("{value:0width$}"),
            };
            text += &match code {
                Some('Y') => number(year, 4),
                Some('y') => number(year.rem_euclid(100), 2),
                Some('m') => number(month, 2),
                Some('d') => number(day, 2),
                Some('e') if !is_bare => format!("{day:2}"),
                Some('e') => day.to_string(),
                Some('H') => number(hour, 2),
                Some('I') => number(hour_12, 2),
                Some('M') => number(minute, 2),
                Some('S') => number(second, 2),
                Some('j') => number(day_of_year, 3),
                Some('w') => weekday.to_string(),
                Some('u') => ((weekday + 6) % 7 + 1).to_string(),
                Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
                Some('B') => month_name.into(),
                Some('b' | 'h') => month_name[..3].into(),
                Some('A') => day_name.into(),
                Some('a') => day_name[..3].into(),
                Some('F') => format!("{year:04}-{month:02}-{day:02}"),
                Some('D') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
                Some('R') => format!("{hour:02}:{minute:02}"),
                Some('Z') => "UTC".into(),
                Some('z') => "+0000".into(),
                Some('n') => "\n".into(),
                Some('t') => "\t".into(),
                Some('%') => "%".into(),
                other => {
                    let code = other.map_or_else(String::new, String::from);
                    let what = format!("strftime_now: code %{code} is not supported");
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
            };
        }
        Ok(text)
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Year, month and day of a day counted from 1 January 1970 in the Gregorian calendar, by trying.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|&month| days_since_1970(year, month, 1) <= days).unwrap_or(1);
    (year, month, days - days_since_1970(year, month, 1) + 1)
}

/// Days from 1 January 1970. Counts from March, so that the leap day is the year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// `json.dumps(value, ensure_ascii=False)`; `indent` as there, `ensure_ascii` is read and must be false.
pub(super) fn to_json(value: &Value, options: &Kwargs) -> Result<Value, Error> {
    let wrong = |what: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(wrong("ensure_ascii=true is not supported".into()));
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) if width <= 64 => {
            let spaces = " ".repeat(width);
            value
                .serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        Some(width) => return Err(wrong(format!("an indent of {width}"))),
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)),
    };
    written.map_err(|error| wrong(error.to_string()))?;
    Ok(Value::from(String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?))
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00:00 Thu 1 001"),
            (951_782_399, "2000-02-28 23:59:59 Mon 28 059"),
            (951_782_400, "2000-02-29 00:00:00 Tue 29 060"),
            (1_721_995_200, "2024-07-26 12:00:00 Fri 26 208"),
            (1_735_603_200, "2024-12-31 00:00:00 Tue 31 366"),
            (-1, "1969-12-31 23:59:59 Wed 31 365"),
        ] {
            assert_eq!(Clock::At(seconds).format("%F %T %a %-d %j").unwrap(), wanted);
        }
        assert_eq!(
            Clock::At(1_721_995_200).format("%d %b %Y, %B %A %I %p 100%%").unwrap(),
            "26 Jul 2024, July Friday 12 PM 100%"
        );
        assert!(Clock::At(0).format("%Q").unwrap_err().to_string().contains("%Q"));
    }
}
