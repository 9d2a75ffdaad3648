//! Head sampling, consistent by trace id: every process and every collector that follows
//! OpenTelemetry's `th` rule decides the same, with no talk between them.

/// Decides by the trace id alone whether a trace is kept from its beginning.
#[derive(Clone, Copy, Debug)]
pub struct HeadSampler {
    /// A trace is kept if the low 56 bits of its id are not below this; 2^56 keeps none.
    threshold: u64,
}

const TWO_POW_56: u64 = 1 << 56;

impl HeadSampler {
    /// Keeps the share `rate` of all traces; values outside 0 to 1 are taken as the nearer end.
    pub fn new(rate: f64) -> Self {
        let share_dropped = 1.0 - rate.clamp(0.0, 1.0);
        // Exact: 2^56 fits a float, and the product is not above it.
        Self {
            threshold: (share_dropped * TWO_POW_56 as f64).round() as u64,
        }
    }

    /// Whether the trace with this id is kept.
    pub fn samples(&self, trace_id: [u8; 16]) -> bool {
        let randomness = u128::from_be_bytes(trace_id) as u64 & (TWO_POW_56 - 1);
        randomness >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_ending_in(low: u64) -> [u8; 16] {
        (u128::from(low) | 0xabcd << 64 | 0xee << 56).to_be_bytes()
    }

    #[test]
    fn one_percent_keeps_from_the_threshold_fd70a4_upwards() {
        // `ot=th:fd70a4` is the specification's own example for 1 %, rounded to six digits.
        let sampler = HeadSampler::new(0.01);
        assert!(!sampler.samples(id_ending_in(0xfd70a300000000)));
        assert!(sampler.samples(id_ending_in(0xfd70a400000000)));
        assert!(sampler.samples(id_ending_in(0xffffffffffffff)));
        assert!(!sampler.samples(id_ending_in(0)));
    }

    #[test]
    fn a_half_keeps_exactly_the_upper_half() {
        let sampler = HeadSampler::new(0.5);
        assert!(!sampler.samples(id_ending_in(0x7fffffffffffff)));
        assert!(sampler.samples(id_ending_in(0x80000000000000)));
    }

    #[test]
    fn all_and_none_are_all_and_none() {
        for low in [0, 1, 0xffffffffffffff] {
            assert!(HeadSampler::new(1.0).samples(id_ending_in(low)));
            assert!(!HeadSampler::new(0.0).samples(id_ending_in(low)));
        }
    }
}
