package canary

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is the time limit of a program: twice what the slowest needs, see [path.waits].
const patience = 2 * time.Minute

// part is a text that left a program; name says where.
type part struct{ name, text string }

// strace is the path of strace, or "" if it is not installed or may not trace.
var strace = sync.OnceValue(func() string {
	path, err := exec.LookPath("strace")
	if err != nil || exec.Command(path, append(straceArguments(os.DevNull), "true")...).Run() != nil {
		return ""
	}
	return path
})

// straceArguments make strace write the system calls by which data leaves a process, or one that it starts, with whole strings and
// the file of each descriptor. With -DD the traced program stays this process's child.
func straceArguments(prefix string) []string {
	const calls = "execve,execveat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,openat,openat2,?open,?creat,mkdirat,?mkdir," +
		"?rename,renameat,renameat2,?link,linkat,?symlink,symlinkat,?chmod,fchmod,fchmodat,connect,prctl,setxattr,fsetxattr,memfd_create,?mknod,mknodat," +
		"copy_file_range,sendfile,splice,mmap,bind,add_key,keyctl,?shmget,?msgsnd,mq_timedsend,sethostname"
	return []string{"-DD", "-f", "-ff", "--seccomp-bpf", "-q", "-xx", "-y", "-v", "-s", "1000000", "-e", "trace=" + calls, "-e", "signal=none", "-o", prefix}
}

// run runs the program and returns all that left it.
func (f *fixture) run(ctx context.Context) ([]part, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line := strings.Fields(f.fill(f.p.program.command))
	line = append(line, strings.Fields(f.fill(f.p.args))...)
	if f.p.signal != 0 { // core files are allowed, as on many machines
		line = append([]string{"sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh"}, line...)
	}
	line = slices.Concat([]string{strace()}, straceArguments(filepath.Join(f.folder, "trace", "t")), line)
	program := exec.CommandContext(ctx, line[0], line[1:]...)
	program.Env, program.Dir, program.Stdin = f.environment(), f.home(), strings.NewReader(f.fill(f.p.program.stdin))
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	if f.p.program.terminal {
		screen, keyboard, err := terminal()
		if err != nil {
			return nil, err
		}
		defer func() { _, _ = screen.Close(), keyboard.Close() }()
		program.Stderr = keyboard
		go func() { _, _ = io.Copy(io.Discard, screen) }() // the trace has it
	}
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.WaitDelay = 5 * time.Second
	if err := f.start(program); err != nil {
		return nil, err
	}
	err := program.Wait()
	f.cloud.mu.Lock()
	f.cloud.process = 0
	f.cloud.mu.Unlock()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("the program did not end in %s", patience)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, err
	}
	parts := []part{{"the exit status", strconv.Itoa(program.ProcessState.ExitCode())}, {"stdout", stdout.String()}, {"stderr", stderr.String()}}
	if program.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		parts = append(parts, f.anything("a core file"))
	}
	traced, files := f.traced(program.Process.Pid, slices.Concat(line, program.Env))
	return slices.Concat(parts, traced, f.left(files)), nil
}

// start starts the program. The program gets the path's signal during its first request. It is killed when it asks for a third event.
func (f *fixture) start(program *exec.Cmd) error {
	kill := func(signal syscall.Signal) error { return syscall.Kill(-program.Process.Pid, signal) }
	program.Cancel = func() error { return kill(syscall.SIGKILL) }
	f.lambda.end = func() { _ = kill(syscall.SIGKILL) }
	f.cloud.interrupt = sync.OnceFunc(func() { _ = kill(f.p.signal) }) // signal 0 does nothing
	f.cloud.mu.Lock()                                                  // no request goes on before the process is known
	defer f.cloud.mu.Unlock()
	err := program.Start()
	if err == nil {
		f.cloud.process = program.Process.Pid
	}
	return err
}

// anything is a part that must not be there, and could hold any secret: it counts as a leak.
func (f *fixture) anything(name string) part { return part{name, f.secrets["bootstrap"]} }

// terminal returns both ends of a new pseudo-terminal.
func terminal() (screen, keyboard *os.File, err error) {
	if screen, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetUint32(int(screen.Fd()), unix.TIOCGPTN)
	if err = errors.Join(err, unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)); err == nil {
		keyboard, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = screen.Close()
	}
	return screen, keyboard, err
}

var (
	traceTarget = regexp.MustCompile(`^\d+<([^>]*)>`)
	unreadable  = regexp.MustCompile(`^\d+<[^>]*>, 0x[0-9a-f]+, [1-9]`)
	succeeded   = regexp.MustCompile(`= \d+\s*$`)
	traceFile   = regexp.MustCompile(`\b\d+<([^>]*)>`)
	traceMode   = regexp.MustCompile(`O_CREAT.*, 0(\d+)\) = \d+<([^>]*)>`)
	traceHost   = regexp.MustCompile(`sin6?_port=htons\((\d+)\).*?"([^"]+)"`)
)

// trace collects what left a program, from the files that strace wrote.
type trace struct {
	*fixture
	main    string   // extension of the main process's file
	given   []string // environment and arguments that the fixture gave the program: these did not leave it
	parts   []part
	files   []string // that were opened for writing
	written map[string]*strings.Builder
	public  map[string]bool // files that others were allowed to read when they were created
}

func (f *fixture) traced(main int, given []string) (parts []part, files []string) {
	t := trace{fixture: f, main: "." + strconv.Itoa(main), given: given, written: map[string]*strings.Builder{}, public: map[string]bool{}}
	traces, _ := filepath.Glob(filepath.Join(f.folder, "trace", "t.*"))
	for _, file := range traces {
		content, _ := os.ReadFile(file)
		for line := range strings.Lines(string(content)) {
			if call, arguments, found := strings.Cut(line, "("); found {
				t.read(filepath.Ext(file), call, arguments)
			}
		}
	}
	for target, text := range t.written {
		name := "what is written to " + target
		if t.public[target] {
			name = "what is written while others may read it, to " + target
		}
		t.add(name, text.String())
	}
	return t.parts, t.files
}

func (t *trace) add(name string, texts ...string) {
	t.parts = append(t.parts, part{name, strings.Join(texts, "\n")})
}

func (t *trace) forbid(name string) { t.parts = append(t.parts, t.anything(name)) }

// read reads a line of the trace: a system call.
func (t *trace) read(process, call, arguments string) {
	switch {
	case call == "execve" || call == "execveat":
		t.executed(process, arguments)
	case call == "connect":
		if host := traceHost.FindStringSubmatch(arguments); host != nil && !t.mayConnect(unhex(host[2]), host[1]) {
			t.forbid("a connection to " + unhex(host[2]) + ":" + host[1])
		}
		t.add("the name of a socket", stringsOf(arguments)...)
	case call == "mmap":
		if file := traceFile.FindStringSubmatch(arguments); file != nil && strings.Contains(arguments, "PROT_WRITE") && strings.Contains(arguments, "MAP_SHARED") {
			t.forbid("memory that is written to " + unhex(file[1]))
		}
	case call == "shmget":
		if succeeded.MatchString(arguments) { // failed calls share nothing
			t.forbid("memory that is shared with others")
		}
	case call == "copy_file_range" || call == "sendfile" || call == "splice": // the kernel copies, so the trace does not show what
		for _, file := range traceFile.FindAllStringSubmatch(arguments, -1) {
			if info, err := os.Stat(unhex(file[1])); err == nil && info.Mode().IsRegular() {
				content, _ := os.ReadFile(unhex(file[1]))
				t.add("what is copied from or to "+unhex(file[1]), string(content))
			}
		}
	case strings.Contains(call, "write") || strings.HasPrefix(call, "send"):
		t.wrote(arguments)
	case strings.HasPrefix(call, "open") && !strings.Contains(arguments, "O_WRONLY") && !strings.Contains(arguments, "O_RDWR"):
	default:
		if created := traceMode.FindStringSubmatch(arguments); created != nil {
			if mode, err := strconv.ParseUint(created[1], 8, 32); err != nil || mode&0o055 != 0 { // the umask is 022
				t.public[unhex(created[2])] = true
			}
		}
		names := stringsOf(arguments)
		t.add("an argument of "+call, names...)
		if strings.HasPrefix(call, "open") && len(names) > 0 {
			t.files = append(t.files, names[0])
		}
	}
}

func (t *trace) executed(process, arguments string) {
	command, environment, _ := strings.Cut(arguments, "], [")
	words, variables := stringsOf(command), stringsOf(environment)
	name := filepath.Base(words[0])
	if process == t.main {
		ours := func(text string) bool { return slices.Contains(t.given, text) }
		words, variables = slices.DeleteFunc(words, ours), slices.DeleteFunc(variables, ours)
	} else if t.p.program.kind == "function" {
		t.forbid("a program that it starts, " + name + ", which may be given anything")
	}
	t.add("the arguments of "+name, words...)
	t.add("the environment of "+name, variables...)
}

func (t *trace) wrote(arguments string) {
	target := "something"
	if match := traceTarget.FindStringSubmatch(arguments); match != nil {
		target = unhex(match[1])
	}
	if strings.HasPrefix(target, "pipe:") || target == os.DevNull {
		return // run reads the pipes of stdout and stderr, other pipes do not leave the program
	}
	if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "TCP") {
		target = "what is sent unencrypted"
	}
	if t.written[target] == nil {
		t.written[target] = &strings.Builder{}
	}
	if unreadable.MatchString(arguments) { // strace prints an address where it may not read the memory, which the function protects
		t.forbid("what strace may not read")
	}
	for _, text := range stringsOf(arguments) {
		t.written[target].WriteString(withoutRecords(text))
	}
}

// withoutRecords removes the TLS records at the beginning that hold encrypted data, or change the cipher (RFC 8446, 5.1).
func withoutRecords(text string) string {
	for len(text) > 5 && (text[0] == 0x17 || text[0] == 0x14) && text[1:3] == "\x03\x03" {
		text = text[min(len(text), 5+int(text[3])<<8+int(text[4])):]
	}
	return text
}

// stringsOf are the strings in a line of the trace, or one empty string if there is none.
func stringsOf(arguments string) (all []string) {
	for i, quoted := range strings.Split(arguments, `"`) {
		if i%2 == 1 {
			all = append(all, unhex(quoted))
		}
	}
	return append(all, "")[:max(1, len(all))]
}

// unhex decodes a string of the trace, in which each character is a code.
func unhex(text string) string {
	plain, _ := strconv.Unquote(`"` + text + `"`)
	return plain
}

// left are the files that still exist after the run: those in the fixture's folder, and the named ones elsewhere. The part of a file
// that others may read has another name, for which no secret is allowed.
func (f *fixture) left(names []string) (parts []part) {
	for i, name := range names {
		if !filepath.IsAbs(name) {
			names[i] = filepath.Join(f.home(), name)
		}
	}
	for _, folder := range []string{"home", "out"} {
		_ = filepath.WalkDir(filepath.Join(f.folder, folder), func(name string, entry fs.DirEntry, err error) error {
			names = append(names, name)
			return nil
		})
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		info, err := os.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(name, filepath.Join(f.folder, "trace")) {
			continue
		}
		content, _ := os.ReadFile(name)
		place := "what is left in " + strings.TrimPrefix(name, f.folder+"/")
		if info.Mode().Perm()&0o077 != 0 {
			place = "a file that others may read, " + strings.TrimPrefix(name, f.folder+"/")
		}
		parts = append(parts, part{place, cmp.Or(string(content), name)})
	}
	return parts
}
