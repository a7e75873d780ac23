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

// patience is how long a program may take: twice what the slowest needs, see [path.waits].
const patience = 2 * time.Minute

// part is something that left a program: where, and what.
type part struct{ name, text string }

// strace is where strace is, "" where there is none or it may not trace.
var strace = sync.OnceValue(func() string {
	path, err := exec.LookPath("strace")
	if err != nil || exec.Command(path, append(straceArguments(os.DevNull), "true")...).Run() != nil {
		return ""
	}
	return path
})

// straceArguments make strace write down all that leaves a process and those it starts: each string whole, and the file behind
// each descriptor. The program stays this process's child; strace is elsewhere.
func straceArguments(prefix string) []string {
	const calls = "execve,execveat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,openat,openat2,?open,?creat,mkdirat,?mkdir," +
		"?rename,renameat,renameat2,?link,linkat,?symlink,symlinkat,?chmod,fchmod,fchmodat,connect,prctl,setxattr,fsetxattr,memfd_create,?mknod,mknodat," +
		"copy_file_range,sendfile,splice,mmap,bind,add_key,keyctl,?shmget,?msgsnd,mq_timedsend,sethostname"
	return []string{"-DD", "-f", "-ff", "--seccomp-bpf", "-q", "-xx", "-y", "-v", "-s", "1000000", "-e", "trace=" + calls, "-e", "signal=none", "-o", prefix}
}

// run starts the program of the path and returns all that came out of it.
func (s *stage) run(ctx context.Context) ([]part, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line := strings.Fields(s.fill(s.p.door.command))
	line = append(line, strings.Fields(s.fill(s.p.args))...)
	if s.p.signal != 0 { // a core would be dumped
		line = append([]string{"sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh"}, line...)
	}
	line = slices.Concat([]string{strace()}, straceArguments(filepath.Join(s.folder, "trace", "t")), line)
	program := exec.CommandContext(ctx, line[0], line[1:]...)
	program.Env, program.Dir, program.Stdin = s.environment(), s.home(), strings.NewReader(s.fill(s.p.door.stdin))
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	if s.p.door.terminal {
		screen, keyboard, err := terminal()
		if err != nil {
			return nil, err
		}
		defer func() { _, _ = screen.Close(), keyboard.Close() }()
		program.Stderr = keyboard
		go func() { _, _ = io.Copy(io.Discard, screen) }() // the trace has it
	}
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func(signal syscall.Signal) error { return syscall.Kill(-program.Process.Pid, signal) }
	program.Cancel = func() error { return kill(syscall.SIGKILL) }
	program.WaitDelay = 5 * time.Second
	if err := program.Start(); err != nil {
		return nil, err
	}
	s.cloud.runs(program.Process.Pid)
	end := make(chan struct{})
	go func() { // ends the program when it is held in the middle of a request, or has had all events
		for {
			select {
			case <-s.cloud.waiting:
				_ = kill(s.p.signal)
				s.cloud.release()
			case <-s.lambda.done:
				_ = kill(syscall.SIGKILL)
				return
			case <-end:
				return
			}
		}
	}()
	err := program.Wait()
	s.cloud.runs(0)
	close(end)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("the program did not end in %s", patience)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, err
	}
	parts := []part{{"the exit status", strconv.Itoa(program.ProcessState.ExitCode())}, {"stdout", stdout.String()}, {"stderr", stderr.String()}}
	if program.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		parts = append(parts, s.anything("a core file"))
	}
	traced, files := s.traced(program.Process.Pid, slices.Concat(line, program.Env))
	return slices.Concat(parts, traced, s.left(files)), nil
}

// anything is a part of which it is not known what it holds, and which must not be there.
func (s *stage) anything(name string) part { return part{name, s.secrets["bootstrap"]} }

// terminal returns both ends of a new one.
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

// trace is what is read in the files that strace wrote.
type trace struct {
	*stage
	main    string   // the end of the name of the main process's file
	given   []string // the environment and arguments that this test gave the program: they are not among what left it
	parts   []part
	files   []string // that were opened to be written
	written map[string]*strings.Builder
	public  map[string]bool // files that others might read when they were made
}

func (s *stage) traced(main int, given []string) (parts []part, files []string) {
	t := trace{stage: s, main: "." + strconv.Itoa(main), given: given, written: map[string]*strings.Builder{}, public: map[string]bool{}}
	traces, _ := filepath.Glob(filepath.Join(s.folder, "trace", "t.*"))
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

// read takes the system call of a line.
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
		if succeeded.MatchString(arguments) { // else nothing is shared
			t.forbid("memory that is shared with others")
		}
	case call == "copy_file_range" || call == "sendfile" || call == "splice": // by the kernel: what they copy is nowhere in the trace
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
	} else if t.p.door.kind == "function" {
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
		return // the pipes of stdout and stderr are read at the other end, all others are the program's own
	}
	if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "TCP") {
		target = "what is sent unencrypted"
	}
	if t.written[target] == nil {
		t.written[target] = &strings.Builder{}
	}
	if unreadable.MatchString(arguments) { // strace needs the right to: the function's memory is closed to its user
		t.forbid("what strace may not read")
	}
	for _, text := range stringsOf(arguments) {
		t.written[target].WriteString(withoutRecords(text))
	}
}

// withoutRecords leaves out the records of TLS at the beginning that hold encrypted data, or end the handshake: RFC 8446, 5.1.
func withoutRecords(text string) string {
	for len(text) > 5 && (text[0] == 0x17 || text[0] == 0x14) && text[1:3] == "\x03\x03" {
		text = text[min(len(text), 5+int(text[3])<<8+int(text[4])):]
	}
	return text
}

// stringsOf are the strings in a line of the trace; one at least, if it is empty.
func stringsOf(arguments string) (all []string) {
	for i, quoted := range strings.Split(arguments, `"`) {
		if i%2 == 1 {
			all = append(all, unhex(quoted))
		}
	}
	return append(all, "")[:max(1, len(all))]
}

// unhex reads a text in which strace writes each character as a code.
func unhex(text string) string {
	plain, _ := strconv.Unquote(`"` + text + `"`)
	return plain
}

// left are the files that are left in the run's own folder, and those of the names that are left elsewhere. A file that holds a
// secret by order is wrong if others may read it.
func (s *stage) left(names []string) (parts []part) {
	for i, name := range names {
		if !filepath.IsAbs(name) {
			names[i] = filepath.Join(s.home(), name)
		}
	}
	for _, folder := range []string{"home", "out"} {
		_ = filepath.WalkDir(filepath.Join(s.folder, folder), func(name string, entry fs.DirEntry, err error) error {
			names = append(names, name)
			return nil
		})
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		info, err := os.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(name, filepath.Join(s.folder, "trace")) {
			continue
		}
		content, _ := os.ReadFile(name)
		place := "what is left in " + strings.TrimPrefix(name, s.folder+"/")
		if info.Mode().Perm()&0o077 != 0 {
			place = "a file that others may read, " + strings.TrimPrefix(name, s.folder+"/")
		}
		parts = append(parts, part{place, cmp.Or(string(content), name)})
	}
	return parts
}
