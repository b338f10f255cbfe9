//! `completions`: a script that completes commands and flags in a shell.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::CommandError;
use crate::arguments::Arguments;
use crate::exit::Exit;
use crate::output::Output;

/// Prints the script of a shell.
pub(crate) fn run(shell: Shell, output: &Output) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "verdigris", &mut script);
    output.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use crate::output::tests::captured;

    #[test]
    fn the_script_of_each_shell_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let (output, answers, _) = captured(Format::People);
            run(shell, &output).expect("printed");
            assert!(answers.text().contains("dead-letters"), "{shell}");
        }
    }
}
