//! What is measured, and how: all subjects in turn, round after round, so that
//! what disturbs the machine disturbs all of them.

use anyhow::{Result, anyhow};

use super::figure::{Figure, Found};

/// What a scenario's figures have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    /// The scenario's name.
    pub(super) scenario: &'static str,
    /// What is measured.
    pub(super) metric: &'static str,
    /// In which unit.
    pub(super) unit: &'static str,
}

type Sampler<'s> = Box<dyn FnMut() -> Result<f64> + 's>;

/// Something that can be measured again and again.
pub(super) struct Subject<'s> {
    name: String,
    baseline: Option<String>,
    sampler: Result<Sampler<'s>>,
}

impl<'s> Subject<'s> {
    /// A subject, compared with nothing.
    pub(super) fn new(name: impl Into<String>, sampler: impl FnMut() -> Result<f64> + 's) -> Self {
        Self::of(name, Ok(sampler))
    }

    /// A subject that may have failed to come about.
    pub(super) fn of(
        name: impl Into<String>,
        sampler: Result<impl FnMut() -> Result<f64> + 's>,
    ) -> Self {
        Self {
            name: name.into(),
            baseline: None,
            sampler: sampler.map(|sampler| Box::new(sampler) as Sampler<'s>),
        }
    }

    /// Compares it with the subject of that name.
    pub(super) fn against(mut self, baseline: impl Into<String>) -> Self {
        self.baseline = Some(baseline.into());
        self
    }

    /// A sample. After the first that fails there are no more.
    fn sample(&mut self) -> Option<f64> {
        let sampled = self.sampler.as_mut().ok()?();
        match sampled {
            Ok(sample) => Some(sample),
            Err(error) => {
                self.sampler = Err(error);
                None
            }
        }
    }
}

/// What several subjects need: if it could not be had, each says why.
pub(super) fn shared<T>(made: &Result<T>) -> Result<&T> {
    made.as_ref().map_err(|error| anyhow!("{error:#}"))
}

/// Measures all subjects for so many rounds. Before the first of several, each
/// is run once for nothing: the first run fills caches.
pub(super) fn measure(
    measure: Measure,
    rounds: usize,
    mut subjects: Vec<Subject<'_>>,
    mut progress: impl FnMut(&str),
) -> Vec<Figure> {
    let mut samples = vec![Vec::new(); subjects.len()];
    let first = usize::from(rounds == 1);
    for round in first..=rounds {
        for (subject, samples) in subjects.iter_mut().zip(&mut samples) {
            progress(&format!("round {round} of {rounds}: {}", subject.name));
            samples.extend(subject.sample().filter(|_| round > 0));
        }
    }
    let names: Vec<String> = subjects.iter().map(|one| one.name.clone()).collect();
    let samples_of = |name: &String| {
        let index = names.iter().position(|candidate| candidate == name)?;
        samples.get(index).cloned()
    };
    let figures = subjects
        .into_iter()
        .zip(&samples)
        .map(|(subject, samples)| {
            let baseline = subject.baseline.as_ref().and_then(samples_of);
            Figure {
                scenario: measure.scenario,
                subject: subject.name,
                metric: measure.metric,
                unit: measure.unit,
                baseline: subject.baseline,
                found: match subject.sampler {
                    Ok(_) => Found::Samples {
                        samples: samples.clone(),
                        ratios: ratios(samples, &baseline.unwrap_or_default()),
                    },
                    Err(error) => Found::Refused(format!("{error:#}")),
                },
            }
        });
    figures.collect()
}

fn ratios(samples: &[f64], baseline: &[f64]) -> Vec<f64> {
    samples.iter().zip(baseline).map(|(a, b)| a / b).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{Measure, Subject, measure};

    #[test]
    fn rounds_and_ratios() {
        let what = Measure {
            scenario: "s",
            metric: "time",
            unit: "ns",
        };
        let mut time = 0.0;
        let subjects = vec![
            Subject::new("base", || Ok(10.0)),
            Subject::new("grows", || {
                time += 10.0;
                Ok(time)
            })
            .against("base"),
            Subject::new("breaks", || bail!("no")).against("base"),
        ];
        let figures = measure(what, 3, subjects, |_| {});
        assert_eq!(figures[1].samples(), [20.0, 30.0, 40.0]);
        assert_eq!(figures[1].ratio(), Some(3.0));
        assert_eq!(figures[2].median(), None);
    }
}
