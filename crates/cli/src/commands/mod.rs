//! The commands.

mod attach;
mod bench;
mod conform;
mod create;
mod ctl;
mod data;
mod demo;
mod detach;
mod image;
mod info;
mod manual;
mod plain;
mod report;
mod serve;
mod states;
mod zone;

use crate::args::Command;

/// Does what was asked.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Create(args) => create::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Check(args) => image::run_check(&args),
        Command::Resize(args) => image::run_resize(&args),
        Command::Clone(args) => image::run_clone(&args),
        Command::Dump(args) => states::run_dump(&args),
        Command::Load(args) => states::run_load(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Attach(args) => attach::run(&args),
        Command::Completions(args) => manual::run_completions(&args),
        Command::Man(args) => manual::run_man(&args),
        Command::Detach(args) => detach::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Open(args) => zone::run(zone::Action::Open, &args),
        Command::Close(args) => zone::run(zone::Action::Close, &args),
        Command::Finish(args) => zone::run(zone::Action::Finish, &args),
        Command::Reset(args) if args.all => zone::reset_all(&args.zones),
        Command::Reset(args) => zone::run(zone::Action::Reset, &args.zones),
        Command::Append(args) => data::append(&args),
        Command::Write(args) => data::write(&args),
        Command::Read(args) => data::read(&args),
        Command::Flush(args) => plain::flush(&args),
        Command::Id(args) => plain::id(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Conform(args) => conform::run(&args),
    }
}
