//! Signals by name and number, as kill(1) and runc take them.

use nix::sys::signal::Signal;

/// The first and the last real-time signal of the C library's users (signal(7)).
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A signal's number from its number or name, in either case, with or without `SIG`: `9`, `KILL`, `sigkill`, `SIGRTMIN+1`.
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |base: i32, offset: &str| {
        let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok().filter(|_| offset.starts_with(['+', '-']))? };
        Some(base + offset).filter(|number| REAL_TIME.contains(number))
    };
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(*REAL_TIME.start(), offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(*REAL_TIME.end(), offset);
    }
    // Names that signal(7) gives to signals with another.
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        name => name,
    };
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let cases = [
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("term", 15),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+1", 35),
            ("RTMAX-14", 50),
            ("rtmin+30", 64),
            ("CLD", 17),
            ("POLL", 29),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "65", "-1", "NOPE", "SIGRTMIN+31", "RTMIN1", "RTMAX+1", "SIGSIGKILL"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
