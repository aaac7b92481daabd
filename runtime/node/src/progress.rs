//! What a person sees while a command goes on: bars on a terminal, single lines in a file.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime_control_api::v1::pull_progress::{Layer, Pulled, State, Step};

use crate::output;

/// Layers shown at once; an image may have hundreds, a terminal has some 24 lines.
const BARS_MAX: usize = 16;
/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// Standard error, with bars below the lines when a person watches.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    bars: MultiProgress,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        let target = if output::is_watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Screen { bars: MultiProgress::with_draw_target(target) }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        self.bars.suspend(|| output::note(text));
    }

    /// Runs what prints, with the bars out of its way.
    pub(crate) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }

    /// A turning line that says what is waited for.
    pub(crate) fn spinner(&self) -> ProgressBar {
        let spinner = self.bars.add(ProgressBar::new_spinner());
        if output::is_watched() {
            spinner.enable_steady_tick(TICK);
        }
        spinner
    }

    /// The view of one image's pull.
    pub(crate) fn pull(&self, image: &str) -> PullView {
        let spinner = self.spinner();
        // A registry may be slow to answer, and the demo image is assembled first.
        spinner.set_message(format!("image {}", output::tame(image)));
        PullView { screen: self.clone(), image: output::tame(image), layers: HashMap::new(), spinner, pulled: None }
    }
}

/// The bars of one image's layers.
#[derive(Debug)]
pub(crate) struct PullView {
    screen: Screen,
    image: String,
    layers: HashMap<String, ProgressBar>,
    spinner: ProgressBar,
    pulled: Option<Pulled>,
}

impl PullView {
    /// Takes in what the node told.
    pub(crate) fn show(&mut self, step: Step) {
        match step {
            Step::Resolved(resolved) => {
                let size = output::size(resolved.bytes);
                self.spinner.set_message(format!("image {}: {} layers, {size}", self.image, resolved.layers));
            }
            Step::Layer(layer) => self.layer(&layer),
            Step::Pulled(pulled) => {
                let how = if pulled.present { "is here" } else { "is pulled" };
                self.clear();
                self.screen.note(&format!("image {} {how}", self.image));
                self.pulled = Some(pulled);
            }
        }
    }

    fn layer(&mut self, layer: &Layer) {
        let short: String = layer.digest.trim_start_matches("sha256:").chars().take(12).map(tamed).collect();
        if !self.layers.contains_key(&layer.digest) {
            if self.layers.len() >= BARS_MAX {
                return;
            }
            let bar = self.screen.bars.add(ProgressBar::new(layer.total_bytes));
            bar.set_style(bar_style());
            bar.set_prefix(short);
            self.layers.insert(layer.digest.clone(), bar);
        }
        let Some(bar) = self.layers.get(&layer.digest) else { return };
        bar.set_message(match layer.state() {
            State::Waiting => "waiting",
            State::Downloading => "downloading",
            State::Unpacking => "unpacking",
            State::Done => "done",
            State::Exists => "here already",
        });
        match layer.state() {
            State::Downloading => {
                bar.set_length(layer.total_bytes.max(layer.done_bytes));
                bar.set_position(layer.done_bytes);
            }
            State::Done | State::Exists => bar.finish(),
            State::Waiting | State::Unpacking => {}
        }
    }

    /// The image's name with its digest, or its id where it has none.
    pub(crate) fn finish(mut self) -> String {
        self.pulled
            .take()
            .map_or_else(String::new, |pulled| if pulled.digest.is_empty() { pulled.id } else { pulled.digest })
    }

    fn clear(&mut self) {
        for bar in self.layers.values().chain([&self.spinner]) {
            bar.finish_and_clear();
            self.screen.bars.remove(bar);
        }
        self.layers.clear();
    }
}

impl Drop for PullView {
    // A pull that failed leaves no half bars above its message.
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:12} [{bar:30}] {bytes:>10} of {total_bytes:>10} {msg}")
        .expect("the template is right")
        .progress_chars("=> ")
}

fn tamed(letter: char) -> char {
    if letter.is_control() { '\u{fffd}' } else { letter }
}
