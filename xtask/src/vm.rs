//! `cargo xtask vm`: boots other kernels in QEMU and runs the kernel-facing
//! tests there.
//!
//! The guest has two serial ports: the kernel has the first one to itself
//! (it goes to `console.log`), `sg-init` and the tests have the second, so a
//! kernel message never splits a test's line. The guest powers off by itself;
//! a panic reboots it, which `-no-reboot` turns into an exit, and whatever does
//! neither is killed when its time is up.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    num::NonZero,
    path::Path,
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    initramfs::Image,
    kernel::{self, Kernel},
    libtest::{self, Counts},
    progress::{Stage, seconds},
    setup::{self, Need},
    shell,
};

/// A first boot under emulation takes three seconds; tests there take about
/// five times as long as on the machine itself.
const DEFAULT_TIMEOUT_S: u64 = 3600;
/// Tests of what user space does, whatever the kernel: this machine has run
/// them.
const NOT_OF_THE_KERNEL: [&str; 3] = ["bad_files", "cloud", "plan"];
/// A KVM that works boots in one second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);
/// What the guest says before it powers off.
const DONE: &str = "sg-init: done";

/// `cargo xtask vm`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel series to boot; may be repeated
    #[arg(long = "kernel", value_name = "VERSION", default_values = kernel::DEFAULT)]
    kernels: Vec<String>,
    /// Seconds that one kernel's tests may take
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT_S)]
    timeout: u64,
    /// Run a shell command in the guest instead of the tests
    #[arg(long, value_name = "COMMAND")]
    shell: Option<String>,
    /// Arguments for the test harness, such as a part of a test's name
    #[arg(last = true)]
    harness: Vec<String>,
}

/// How one kernel did.
pub(crate) struct Verdict {
    /// `6.1.0-56 (tcg)`, or the series if there was no kernel to boot.
    pub(crate) name: String,
    /// Tests, over all harnesses.
    pub(crate) counts: Counts,
    /// From start to power-off.
    pub(crate) time: Duration,
    /// Why it is no success although no test failed.
    pub(crate) broken: Option<String>,
}

impl Verdict {
    /// Whether all of it went well.
    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_none() && self.counts.failed == 0
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let Counts { passed, failed } = self.counts;
        let tests = format!("{passed} passed, {failed} failed in {}", seconds(self.time));
        match &self.broken {
            None => format!("{}: {tests}", self.name),
            Some(why) if self.time.is_zero() => format!("{}: {why}", self.name),
            Some(why) => format!("{}: {tests}: {why}", self.name),
        }
    }
}

/// The command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let time = Duration::from_secs(args.timeout);
    if let Some(line) = &args.shell {
        return run_shell(&args.kernels, line, time);
    }
    let verdicts = run_tests(&args.kernels, &args.harness, time)?;
    let good = verdicts.iter().all(Verdict::is_good);
    // A filter may fit tests that only one kernel has.
    let ran = verdicts.iter().any(|one| one.counts.passed > 0);
    if good && !ran {
        bail!("ran no test");
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the tests in each kernel with the default time limit.
pub(crate) fn test_layer(harness: &[String]) -> Result<Vec<Verdict>> {
    let kernels = kernel::DEFAULT.map(str::to_owned);
    run_tests(&kernels, harness, Duration::from_secs(DEFAULT_TIMEOUT_S))
}

/// Boots the kernels side by side and prints the verdict of each.
fn run_tests(kernels: &[String], harness: &[String], time: Duration) -> Result<Vec<Verdict>> {
    setup::ensure(&[Need::Build, Need::Test, Need::Vm])?;
    let mut tests = build::tests()?;
    let is_of_the_kernel = |name: &str| !NOT_OF_THE_KERNEL.contains(&name);
    tests.harnesses.retain(|one| is_of_the_kernel(&one.name));
    println!(
        "NOT RUN in the VM, because no kernel matters to them: {}",
        NOT_OF_THE_KERNEL.join(", ")
    );
    each_kernel(kernels, |kernel, progress| {
        let (mut image, mut plan) = guest(kernel, &tests.init)?;
        let scratch = kernel.dir.join("stripped");
        image.stripped(&tests.agent, "/usr/bin/sg-agent", &scratch)?;
        plan.env("SG_AGENT", "/bin/sg-agent");
        // Emulation is slow, and the full numbers have been had on this
        // machine already.
        plan.env("SG_TEST_PACKETS", "2000");
        plan.env("SG_TEST_RELOADS", "4");
        plan.env("SG_TEST_FAULTS", "120");
        plan.env("SG_TEST_VM", "1");
        plan.env("RUST_BACKTRACE", "1");
        for (name, value) in shell::test_variables() {
            plan.env(&name, &value);
        }
        plan.dir(&shell::root().join("tests").to_string_lossy());
        for one in &tests.harnesses {
            let path = format!("/tests/{}", one.name);
            image.stripped(&one.path, &path, &scratch)?;
            let args: Vec<&str> = harness.iter().map(String::as_str).collect();
            plan.run(&one.name, &[&[path.as_str()], args.as_slice()].concat());
        }
        image.text("/plan", &plan.0);
        boot_and_judge(kernel, &tests.init, &image, time, progress)
    })
}

/// Runs one shell command in each kernel, its output shown as it comes.
fn run_shell(kernels: &[String], line: &str, time: Duration) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Test, Need::Vm])?;
    let tests = build::tests()?;
    let mut worst = 0;
    for series in kernels {
        let kernel = Kernel::get(series)?;
        let (mut image, mut plan) = guest(&kernel, &tests.init)?;
        image.stripped(
            &tests.agent,
            "/usr/bin/sg-agent",
            &kernel.dir.join("stripped"),
        )?;
        plan.run("shell", &["/bin/sh", "-c", line]);
        image.text("/plan", &plan.0);
        worst = worst.max(show(&kernel, &tests.init, &image, time)?);
    }
    Ok(ExitCode::from(worst))
}

/// What a guest is at, for who watches.
#[derive(Default)]
struct Progress(Mutex<String>);

impl Progress {
    fn say(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn said(&self) -> String {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

/// Runs as many guests at once as there are processors: an emulated one keeps
/// one busy. A kernel that can't be had or booted is a verdict, not the end of
/// the run.
fn each_kernel(
    kernels: &[String],
    run: impl Fn(&Kernel, &Progress) -> Result<Verdict> + Sync,
) -> Result<Vec<Verdict>> {
    if kernels.is_empty() {
        bail!("no kernel named");
    }
    let verdict = |series: &str, kernel: Result<Kernel>, progress: &Progress| {
        let verdict = kernel
            .and_then(|kernel| run(&kernel, progress))
            .unwrap_or_else(|error| Verdict {
                name: series.to_owned(),
                counts: Counts::default(),
                time: Duration::ZERO,
                broken: Some(format!("{error:#}")),
            });
        println!("{}", verdict.line());
        progress.say(format!("{series} ended"));
        verdict
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let mut verdicts = Vec::new();
    for together in kernels.chunks(processors) {
        // Packages come one after the other.
        let kernels: Vec<_> = together.iter().map(|series| Kernel::get(series)).collect();
        let progress: Vec<_> = together.iter().map(|_| Progress::default()).collect();
        let stage = Stage::start(format!("testing in {}", together.join(" and ")));
        thread::scope(|scope| {
            let guests = together.iter().zip(kernels).zip(&progress);
            let running: Vec<_> = guests
                .map(|((series, kernel), progress)| {
                    scope.spawn(|| verdict(series, kernel, progress))
                })
                .collect();
            while !running.iter().all(ScopedJoinHandle::is_finished) {
                let said: Vec<_> = progress.iter().map(Progress::said).collect();
                stage.update(&said.join("; "));
                thread::sleep(TICK);
            }
            for guest in running {
                let verdict = guest.join();
                verdicts.push(verdict.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
        stage.clear();
    }
    Ok(verdicts)
}

/// What `sg-init` is to do; its module comment has the format.
#[derive(Default)]
pub(crate) struct Plan(String);

impl Plan {
    fn step(&mut self, fields: &[&str]) {
        // A tab or a newline inside a field would make two of it; nothing that
        // a plan names has one, and a shell command can do with spaces.
        let fields: Vec<String> = fields
            .iter()
            .map(|field| field.replace(['\t', '\n'], " "))
            .collect();
        let _ = writeln!(self.0, "{}", fields.join("\t"));
    }

    fn env(&mut self, name: &str, value: &str) {
        self.step(&["env", name, value]);
    }

    fn dir(&mut self, path: &str) {
        self.step(&["dir", path]);
    }

    fn run(&mut self, name: &str, command: &[&str]) {
        self.step(&[&["run", name], command].concat());
    }
}

/// A guest with everything in it but what it is for.
fn guest(kernel: &Kernel, init: &Path) -> Result<(Image, Plan)> {
    let mut image = Image::new(init)?;
    let mut plan = Plan::default();
    plan.step(&["must", "ip", "link", "set", "lo", "up"]);
    for module in image.fill(kernel)? {
        plan.step(&["module", &module]);
    }
    Ok((image, plan))
}

/// Runs the lab in a VM, its output shown as it comes; returns its exit code.
pub(crate) fn lab(series: &str, lab: &build::Lab, command: &[&str]) -> Result<u8> {
    let kernel = Kernel::get(series)?;
    let (mut image, mut plan) = guest(&kernel, &lab.init)?;
    image.program(&lab.agent, "/usr/bin/sg-agent")?;
    image.program(&lab.driver, "/usr/bin/sg-lab")?;
    plan.dir("/");
    plan.run("lab", command);
    image.text("/plan", &plan.0);
    show(
        &kernel,
        &lab.init,
        &image,
        Duration::from_secs(DEFAULT_TIMEOUT_S),
    )
}

/// Boots, and prints what the guest's one program prints.
fn show(kernel: &Kernel, init: &Path, image: &Image, time: Duration) -> Result<u8> {
    let accel = Accel::choose(kernel, init)?;
    let archive = kernel.dir.join("initramfs.cpio");
    image.write(&archive)?;
    let stage = Stage::start(format!("booting {} ({})", kernel.name, accel.name()));
    stage.update("waiting for the guest");
    let mut code = None;
    let mut shown = false;
    let end = boot(kernel, &archive, accel, time, |event| {
        if !shown {
            stage.clear();
            shown = true;
        }
        match event {
            Event::Line(line) => match line.strip_prefix("sg-init: end ") {
                Some(end) => code = end.split_once("status=").and_then(|(_, n)| n.parse().ok()),
                None if line.starts_with("sg-init: ") => {}
                None => println!("{line}"),
            },
            Event::Tick => shown = false,
        }
    })?;
    if end != End::Done {
        bail!("{}\n{}", end.describe(time), console_tail(kernel));
    }
    code.context("the program in the guest was killed or did not start")
}

/// Boots, counts the tests, and shows the output of what failed.
fn boot_and_judge(
    kernel: &Kernel,
    init: &Path,
    image: &Image,
    time: Duration,
    progress: &Progress,
) -> Result<Verdict> {
    let accel = Accel::choose(kernel, init)?;
    let name = format!("{} ({})", kernel.name, accel.name());
    let archive = kernel.dir.join("initramfs.cpio");
    image.write(&archive)?;
    let start = Instant::now();
    let mut log = fs::File::create(kernel.dir.join("tests.log"))?;
    let mut tally = Tally::default();
    let end = boot(kernel, &archive, accel, time, |event| {
        if let Event::Line(line) = event {
            let _ = writeln!(log, "{line}");
            tally.line(line);
            // What a test says of the kernel it runs on, to be seen in any case.
            if line.starts_with("size: ") {
                println!("  {}: {line}", kernel.name);
            }
        }
        progress.say(format!("{}: {}", kernel.name, tally.progress()));
    })?;
    let broken = tally.finish(end, time);
    let verdict = Verdict {
        name,
        counts: tally.counts,
        time: start.elapsed(),
        broken,
    };
    // In one piece: another guest may have something to show as well.
    let mut report = String::new();
    if !verdict.is_good() {
        report += &tally.failures();
    }
    if end != End::Done {
        let _ = writeln!(report, "the kernel's last words:\n{}", console_tail(kernel));
    }
    print!("{report}");
    Ok(verdict)
}

/// What came out of a guest so far.
#[derive(Default)]
struct Tally {
    counts: Counts,
    /// The program that is running, and what it printed.
    running: Option<(String, Vec<String>)>,
    /// Programs that did not end with success, and what they printed.
    failed: Vec<(String, Vec<String>)>,
    /// Whether the running program has closed with a result line.
    has_result: bool,
    /// What `sg-init` says went wrong.
    error: Option<String>,
    /// Whether any program was started.
    begun: bool,
    /// Tests that ended, for the progress line.
    ended: u32,
}

impl Tally {
    fn line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("sg-init: begin ") {
            self.running = Some((name.to_owned(), Vec::new()));
            self.has_result = false;
            self.begun = true;
        } else if let Some(error) = line.strip_prefix("sg-init: error: ") {
            self.error = Some(error.to_owned());
        } else if line.starts_with("sg-init: end ") {
            self.end(line.ends_with(" status=0"));
        } else {
            self.output(line);
        }
    }

    fn output(&mut self, line: &str) {
        if let Some(counts) = libtest::result_line(line) {
            self.counts += counts;
            self.has_result = true;
        }
        if line.starts_with("test ") && line.contains(" ... ") {
            self.ended += 1;
        }
        if let Some((_, lines)) = &mut self.running {
            lines.push(line.to_owned());
        }
    }

    fn end(&mut self, success: bool) {
        // A harness that ends without its closing line crashed; the test that
        // took it down is one failure at least.
        if !self.has_result {
            self.counts.failed += 1;
        }
        if let Some(ended) = self.running.take()
            && (!success || !self.has_result)
        {
            self.failed.push(ended);
        }
    }

    fn finish(&mut self, end: End, limit: Duration) -> Option<String> {
        if let Some((name, lines)) = self.running.take() {
            self.counts.failed += 1;
            self.failed.push((name, lines));
        }
        if end != End::Done {
            let error = self.error.take();
            return Some(error.unwrap_or_else(|| end.describe(limit)));
        }
        None
    }

    fn progress(&self) -> String {
        match &self.running {
            Some((name, _)) => format!("{name}, {} tests ended", self.ended),
            None if !self.begun => "booting".to_owned(),
            None => format!("{} tests ended", self.ended),
        }
    }

    fn failures(&self) -> String {
        let mut text = String::new();
        for (name, lines) in &self.failed {
            let _ = writeln!(text, "--- {name}\n{}\n---", lines.join("\n"));
        }
        text
    }
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accel {
    /// The machine's own processor.
    Kvm,
    /// QEMU.
    Tcg,
}

impl Accel {
    /// KVM where a guest really comes up: there are machines where it is
    /// present and guests die in it.
    fn choose(kernel: &Kernel, init: &Path) -> Result<Self> {
        if fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Self::Tcg);
        }
        let archive = kernel.dir.join("probe.cpio");
        let mut image = Image::new(init)?;
        image.text("/plan", "");
        image.write(&archive)?;
        let end = boot(kernel, &archive, Self::Kvm, PROBE_TIMEOUT, |_| {})?;
        Ok(if end == End::Done {
            Self::Kvm
        } else {
            Self::Tcg
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // One thread for all guest CPUs: with one for each, a guest that
            // patches its own code under the other CPU's feet (static keys, at
            // every clsact) now and then hangs on the patched instruction.
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }

    /// Options of the guest's kernel.
    fn kernel_options(self) -> &'static str {
        match self {
            Self::Kvm => "",
            // Two thirds of the time, with the same programs: string
            // instructions, by which the kernel copies memory where it thinks
            // them fast, are emulated octet by octet; and what it does against
            // attacks on processors makes each indirect call a dear one.
            Self::Tcg => "clearcpuid=erms,rep_good,fsrm mitigations=off",
        }
    }
}

/// What happens while a guest runs.
enum Event<'a> {
    /// It printed a line.
    Line(&'a str),
    /// A little time passed.
    Tick,
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It said that it was done, and powered off.
    Done,
    /// It ended before that.
    Died,
    /// It was killed when its time was up.
    TimedOut,
}

impl End {
    fn describe(self, limit: Duration) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::Died => "the guest died before it was done: kernel panic or reset".to_owned(),
            Self::TimedOut => format!("killed after {}: time-out", seconds(limit)),
        }
    }
}

/// A QEMU that does not outlive its handle.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail on a process that has ended already, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const QEMU: &str = "qemu-system-x86_64";
/// Kernel messages to the first serial port; a panic ends the guest.
const CONSOLE: &str = "console=ttyS0 panic=-1 oops=panic loglevel=5";

fn qemu(kernel: &Kernel, archive: &Path, accel: Accel) -> Result<(Qemu, ChildStdout)> {
    let console = kernel.dir.join("console.log");
    let program = shell::find_program(QEMU)
        .with_context(|| format!("no `{QEMU}`: `cargo xtask setup vm` installs it"))?;
    // It ends with this process, however that ends.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none"])
        .args(["-smp", "2", "-m", "1536"])
        .args(accel.args())
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .args(["-append", &format!("{CONSOLE} {}", accel.kernel_options())])
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if accel == Accel::Kvm {
        // A failing probe is no news.
        command.stderr(Stdio::null());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("can't start `{QEMU}`"))?;
    let stdout = child.stdout.take().context("no pipe from QEMU")?;
    Ok((Qemu(child), stdout))
}

/// Boots a guest and watches it to its end.
fn boot(
    kernel: &Kernel,
    archive: &Path,
    accel: Accel,
    limit: Duration,
    mut each: impl FnMut(Event<'_>),
) -> Result<End> {
    let deadline = Instant::now() + limit;
    let (_qemu, stdout) = qemu(kernel, archive, accel)?;
    let lines = lines_of(stdout);
    let mut done = false;
    loop {
        if Instant::now() >= deadline {
            return Ok(End::TimedOut);
        }
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                done |= line == DONE;
                each(Event::Line(&line));
            }
            Err(RecvTimeoutError::Timeout) => each(Event::Tick),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(if done { End::Done } else { End::Died })
}

/// Reads lines in the background, so that waiting for one can have a limit.
fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The last lines of the kernel's console.
fn console_tail(kernel: &Kernel) -> String {
    let log = fs::read(kernel.dir.join("console.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let tail = lines
        .get(lines.len().saturating_sub(40)..)
        .unwrap_or_default();
    tail.join("\n")
}
