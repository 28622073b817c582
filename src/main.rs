//! The program: everything is in [`aqueduct::cli`].

fn main() -> std::process::ExitCode {
    aqueduct::cli::main()
}
