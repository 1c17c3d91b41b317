//! What there is at the other end of the standard streams.

use std::io::IsTerminal;

use zvb_wire::Condition;

/// Whether text is coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Paint {
    /// As it is.
    Plain,
    /// With ANSI colours.
    Colour,
}

impl Paint {
    /// Colour when standard output is a terminal and the user has not asked for none (`NO_COLOR`,
    /// `TERM=dumb`).
    pub(crate) fn for_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        if stdout_is_terminal() && !unwanted { Self::Colour } else { Self::Plain }
    }

    /// `text` in the colour of `condition`.
    pub(crate) fn condition(self, condition: Condition, text: &str) -> String {
        let code = match condition {
            Condition::NotWp => "36",
            Condition::Empty => "2",
            Condition::ImplicitOpen => "32",
            Condition::ExplicitOpen => "1;32",
            Condition::Closed => "33",
            Condition::Full => "34",
            Condition::ReadOnly => "35",
            Condition::Offline => "1;31",
        };
        self.wrap(code, text)
    }

    /// `text` as a heading.
    pub(crate) fn heading(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// True when a person reads standard output.
pub(crate) fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Columns of the terminal at standard output, 80 where there is none.
pub(crate) fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}
