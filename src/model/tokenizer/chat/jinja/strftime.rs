//! `strftime_now` of transformers, for a date that is given.

use super::python::{Result, error};
use std::str::FromStr;

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
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

/// A day of the calendar, which templates see as today, at midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Default for Date {
    /// 26 July 2024, the date that Llama 3's template takes where it is given none.
    fn default() -> Date {
        Date { year: 2024, month: 7, day: 26 }
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Date, String> {
        let fail = || format!("'{text}' is no date; write it as 2024-07-26");
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts.as_slice() else { return Err(fail()) };
        let number = |text: &str, len: usize| {
            let digits = text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<i64>().ok()).flatten()
        };
        let date = (number(year, 4), number(month, 2), number(day, 2));
        let (Some(year), Some(month), Some(day)) = date else { return Err(fail()) };
        let date = Date { year, month, day };
        let exists =
            year > 0 && (1..=12).contains(&month) && (1..=date.days_in_month()).contains(&day);
        if exists { Ok(date) } else { Err(fail()) }
    }
}

impl Date {
    fn is_leap(self) -> bool {
        (self.year % 4 == 0 && self.year % 100 != 0) || self.year % 400 == 0
    }

    fn days_in_month(self) -> i64 {
        match self.month {
            2 => 28 + i64::from(self.is_leap()),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// The day of the year, from 1.
    fn day_of_year(self) -> i64 {
        (1..self.month).map(|month| Date { month, ..self }.days_in_month()).sum::<i64>() + self.day
    }

    /// The day of the week, 0 for Monday.
    fn weekday(self) -> i64 {
        let before = self.year - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year();
        (days + 6) % 7
    }

    /// Year and week of ISO 8601.
    fn iso_week(self) -> (i64, i64) {
        let week = (self.day_of_year() - self.weekday() + 9) / 7;
        let weeks = |year: i64| {
            let last = Date { year, month: 12, day: 31 }.weekday();
            let first = Date { year, month: 1, day: 1 }.weekday();
            if last == 3 || first == 3 { 53 } else { 52 }
        };
        match week {
            0 => (self.year - 1, weeks(self.year - 1)),
            week if week > weeks(self.year) => (self.year + 1, 1),
            week => (self.year, week),
        }
    }

    /// `datetime.strftime(format)`, in English.
    ///
    /// # Errors
    /// If `format` has a code that is not known.
    pub fn format(self, format: &str) -> Result<String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let Some(mut code) = chars.next() else {
                out.push('%');
                break;
            };
            let plain = code == '-';
            if plain {
                code = chars.next().ok_or_else(|| error("strftime_now: '%-' lacks its code"))?;
            }
            let text = self.code(code)?;
            match plain && text.len() > 1 && text.bytes().all(|b| b.is_ascii_digit()) {
                true => out.push_str(match text.trim_start_matches('0') {
                    "" => "0",
                    text => text,
                }),
                false => out.push_str(&text),
            }
        }
        Ok(out)
    }

    fn code(self, code: char) -> Result<String> {
        let (day, month) = (DAYS[self.weekday() as usize], MONTHS[self.month as usize - 1]);
        let sunday = (self.weekday() + 1) % 7;
        Ok(match code {
            'a' => day[..3].to_string(),
            'A' => day.to_string(),
            'b' | 'h' => month[..3].to_string(),
            'B' => month.to_string(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'm' => format!("{:02}", self.month),
            'y' => format!("{:02}", self.year % 100),
            'Y' => self.year.to_string(),
            'C' => format!("{:02}", self.year / 100),
            'G' => self.iso_week().0.to_string(),
            'g' => format!("{:02}", self.iso_week().0 % 100),
            'V' => format!("{:02}", self.iso_week().1),
            'j' => format!("{:03}", self.day_of_year()),
            'u' => (self.weekday() + 1).to_string(),
            'w' => sunday.to_string(),
            'U' => format!("{:02}", (self.day_of_year() + 6 - sunday) / 7),
            'W' => format!("{:02}", (self.day_of_year() + 6 - self.weekday()) / 7),
            'H' | 'M' | 'S' => "00".to_string(),
            'k' => " 0".to_string(),
            'I' | 'l' => "12".to_string(),
            'p' => "AM".to_string(),
            'P' => "am".to_string(),
            'f' => "000000".to_string(),
            'z' | 'Z' => String::new(),
            'n' => "\n".to_string(),
            't' => "\t".to_string(),
            '%' => "%".to_string(),
            'D' | 'x' => self.format("%m/%d/%y")?,
            'F' => self.format("%Y-%m-%d")?,
            'T' | 'X' => "00:00:00".to_string(),
            'R' => "00:00".to_string(),
            'r' => "12:00:00 AM".to_string(),
            'c' => self.format("%a %b %e %H:%M:%S %Y")?,
            other => {
                return Err(error(format!("strftime_now: the code '%{other}' is not supported")));
            }
        })
    }
}
