//! Durations as Jaeger's API takes them: `1.5s`, `100ms`, `1m30s`.

/// The duration in µs; `None` if `text` isn't one.
pub(crate) fn parse_micros(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut micros = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        micros += number.parse::<f64>().ok()? * micros_per(unit)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(micros as u64)
}

fn micros_per(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-3,
        "us" | "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse_micros("1m30s"), Some(90_000_000));
        assert_eq!(parse_micros("1.5ms"), Some(1_500));
        assert_eq!(parse_micros("20µs"), Some(20));
        for illegal in ["", "5", "s", "1x", "1..2s", "-1s"] {
            assert_eq!(parse_micros(illegal), None, "{illegal:?}");
        }
    }
}
