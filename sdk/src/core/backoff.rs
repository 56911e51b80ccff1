// SPDX-License-Identifier: Apache-2.0
//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng;

use super::Component;

/// Waits that double from `first` to `most`; all but the first are shortened by up to a quarter, so that those who
/// failed together do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Waits from `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            next: first,
            most,
        }
    }

    /// The next wait.
    pub fn next(&mut self, component: &Component) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.most);
        if wait == self.first {
            return wait;
        }
        component.random(|random| wait.mul_f64(random.random_range(0.75..=1.0)))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_the_first_to_the_most_and_start_over() {
        let component = Component::new("test");
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(3));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<_> = (0..10).map(|_| backoff.next(&component)).collect();
        assert_eq!(waits[0], first);
        assert!(waits[1] >= Duration::from_millis(300) && waits[1] <= Duration::from_millis(400));
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits[9] >= most.mul_f64(0.75));
        backoff.reset();
        assert_eq!(backoff.next(&component), first);
    }
}
