//! What one run of one store gives: numbers with names, as lines that a child process prints.
#![forbid(unsafe_code)]

use std::fmt;

use clap::ValueEnum;

/// What a store is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    Fill,
    Recycled,
    Hot,
    Cold,
    Scarce,
    Mixed,
    Reopen,
    Bounded,
    /// Several sets through a full store.
    Long,
}

/// What is measured of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Metric {
    Burst,
    Sustained,
    Rate,
    WriteRate,
    ReadRate,
    ReadP50,
    ReadP99,
    ReadP999,
    WriteP50,
    WriteP99,
    WriteP999,
    WriteMax,
    First,
    All,
    Disk,
}

fn name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self))
    }
}

impl Metric {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Burst | Self::Sustained | Self::Rate | Self::WriteRate | Self::ReadRate => "GiB/s",
            Self::First | Self::All => "ms",
            Self::Disk => "of the bound",
            Self::ReadP50
            | Self::ReadP99
            | Self::ReadP999
            | Self::WriteP50
            | Self::WriteP99
            | Self::WriteP999
            | Self::WriteMax => "us",
        }
    }

    pub(crate) fn more_is_better(self) -> bool {
        self.unit() == "GiB/s"
    }
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measure {
    pub(crate) workload: Workload,
    pub(crate) metric: Metric,
    pub(crate) value: f64,
    /// It took too long, and was ended: the number is that of the part that was done.
    pub(crate) cut: bool,
    /// Which part of the blocks that should be there could be read.
    pub(crate) readable: f64,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, metric, value, cut, readable } = self;
        write!(f, "measure {workload} {metric} {value} {cut} {readable}")
    }
}

impl Measure {
    /// Reads what `Display` has written; `None` of any other line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("measure ")?.split(' ');
        let measure = Self {
            workload: Workload::from_str(words.next()?, false).ok()?,
            metric: Metric::from_str(words.next()?, false).ok()?,
            value: words.next()?.parse().ok()?,
            cut: words.next()?.parse().ok()?,
            readable: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(measure)
    }
}

/// The middle one of some numbers, or the mean of the two in the middle; `None` of none.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_survives_its_line_and_other_lines_are_none() {
        for (workload, metric) in [(Workload::Fill, Metric::Burst), (Workload::Mixed, Metric::ReadP999)] {
            let measure = Measure { workload, metric, value: 0.125, cut: true, readable: 0.5 };
            assert_eq!(Measure::parse(&measure.to_string()), Some(measure));
        }
        for line in ["", "fill burst 1 true 1", "measure fill burst x true 1", "measure fill burst 1 true 1 1"] {
            assert_eq!(Measure::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0])), (Some(2.0), Some(2.5)));
    }
}
