//! Sizes as people write them: `512MiB`, `1g`, `4096`, and back.
//!
//! # Invariants
//!
//! 1. Every unit is a power of 1024, spelled with or without `i` and `B`, in either case.
#![forbid(unsafe_code)]

const UNITS: [(&str, u32); 5] = [("", 0), ("k", 10), ("m", 20), ("g", 30), ("t", 40)];

/// Bytes, or a sentence on what is wrong with `text`.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write a number and a unit, like 512MiB, 1g or 4096");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit.strip_suffix('i').filter(|letter| !letter.is_empty()).unwrap_or(unit);
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more bytes than 64 bits count"))
}

/// The largest unit of which there is at least one, with three digits: `44.1 MiB`.
pub(crate) fn show(bytes: u64) -> String {
    let names = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    if unit == 0 {
        return format!("{bytes} bytes");
    }
    // In hundredths of the unit, rounded down; `u128` because of the factor.
    let hundredths = (u128::from(bytes) * 100) >> (10 * unit);
    match hundredths {
        0..1_000 => format!("{}.{:02} {}", hundredths / 100, hundredths % 100, names[unit]),
        1_000..10_000 => format!("{}.{} {}", hundredths / 100, hundredths % 100 / 10, names[unit]),
        _ => format!("{} {}", hundredths / 100, names[unit]),
    }
}

/// `bytes` in `time` as a rate; a time too short to measure counts as one microsecond.
pub(crate) fn show_rate(bytes: u64, time: std::time::Duration) -> String {
    let rate = u128::from(bytes) * 1_000_000 / time.as_micros().max(1);
    format!("{}/s", show(u64::try_from(rate).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_a_size_is_understood() {
        let cases =
            [("4096", 4096), ("512MiB", 512 << 20), ("1g", 1 << 30), ("3 kb", 3 << 10), ("2TIB", 2 << 40), ("7B", 7)];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_text() {
        for text in ["", "MiB", "-1", "1.5g", "1x", "1mm", "1i", "1ib", "99999999999999999999", "99999999999t"] {
            assert!(parse(text).unwrap_err().contains(&format!("`{text}`")), "{text}");
        }
    }

    #[test]
    fn a_shown_size_has_three_digits_and_never_rounds_up() {
        let cases = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.00 KiB"),
            (46_294_630, "44.1 MiB"),
            (512 << 20, "512 MiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(show(bytes), text);
        }
        assert_eq!(show((1 << 30) - 1), "1023 MiB");
        assert_eq!(show(u64::MAX), "15.9 EiB");
    }
}
