package canary

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
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
	"unsafe"
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

// run starts the program of a path and returns all that came out of it.
func (s *stage) run(ctx context.Context, p path) ([]part, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line := slices.Concat(p.before, p.door.command(s.tools))
	if p.args != nil {
		line = append(line, p.args(s)...)
	}
	if i := slices.IndexFunc(line, func(word string) bool { return word == hurry || word == readersHurry }); i >= 0 && p.patient {
		line[i] = "50s"
	}
	line = slices.Concat([]string{strace()}, straceArguments(filepath.Join(s.folder, "trace", "t")), line)
	program := exec.CommandContext(ctx, line[0], line[1:]...)
	program.Env, program.Dir = s.environment(p), s.home()
	for _, stdin := range []func(*stage) string{p.door.stdin, p.stdin} {
		if stdin != nil {
			program.Stdin = strings.NewReader(stdin(s))
		}
	}
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	if p.door.terminal {
		screen, keyboard, err := terminal()
		if err != nil {
			return nil, err
		}
		defer func() { _, _ = screen.Close(), keyboard.Close() }()
		program.Stderr = keyboard
		go func() { _, _ = io.Copy(io.Discard, screen) }() // the trace has it
	}
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.Cancel = func() error { return syscall.Kill(-program.Process.Pid, syscall.SIGKILL) }
	program.WaitDelay = 5 * time.Second
	if p.signal != 0 {
		s.cloud.hold()
	}
	if err := program.Start(); err != nil {
		return nil, err
	}
	s.cloud.mu.Lock()
	s.cloud.process = program.Process.Pid
	s.cloud.mu.Unlock()
	end := make(chan struct{})
	go func() { // ends the program when it is held in the middle of a request, or has had all events
		for {
			select {
			case <-s.cloud.waiting:
				_ = syscall.Kill(-program.Process.Pid, p.signal)
				s.cloud.release()
			case <-s.lambda.done:
				_ = syscall.Kill(-program.Process.Pid, syscall.SIGKILL)
				return
			case <-end:
				return
			}
		}
	}()
	err := program.Wait()
	s.cloud.mu.Lock()
	s.cloud.process = 0
	s.cloud.mu.Unlock()
	close(end)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("the program did not end in %s", patience)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, err
	}
	parts := []part{{"the exit status", strconv.Itoa(program.ProcessState.ExitCode())}, {"stdout", stdout.String()}, {"stderr", stderr.String()}}
	if program.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		parts = append(parts, part{"a core file", s.keys.bootstrap})
	}
	traced, files := s.traced(p, program.Process.Pid, slices.Concat(line, program.Env))
	return slices.Concat(parts, traced, s.left(files)), nil
}

// terminal returns both ends of a new one.
func terminal() (screen, keyboard *os.File, err error) {
	if screen, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	const numberOf, unlock = 0x80045430, 0x40045431 // TIOCGPTN and TIOCSPTLCK of ioctl_tty(2)
	var number, locked int32
	for request, value := range map[uintptr]*int32{numberOf: &number, unlock: &locked} {
		if _, _, code := syscall.Syscall(syscall.SYS_IOCTL, screen.Fd(), request, uintptr(unsafe.Pointer(value))); code != 0 {
			err = code
		}
	}
	if err == nil {
		keyboard, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
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

// traced reads what strace wrote down, and returns the files that were opened to be written. The environment and arguments
// that this test gave the program are not among what left it.
func (s *stage) traced(p path, main int, given []string) (parts []part, files []string) {
	traces, _ := filepath.Glob(filepath.Join(s.folder, "trace", "t.*"))
	written, public := map[string]*strings.Builder{}, map[string]bool{}
	for _, trace := range traces {
		content, err := os.ReadFile(trace)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			call, arguments, found := strings.Cut(line, "(")
			if !found {
				continue
			}
			switch {
			case call == "execve" || call == "execveat":
				command, environment, _ := strings.Cut(arguments, "], [")
				words, variables := stringsOf(command), stringsOf(environment)
				name := filepath.Base(words[0])
				if strings.HasSuffix(trace, "."+strconv.Itoa(main)) {
					ours := func(text string) bool { return slices.Contains(given, text) }
					words, variables = slices.DeleteFunc(words, ours), slices.DeleteFunc(variables, ours)
				} else if p.door.kind == "function" {
					parts = append(parts, part{"a program that it starts, " + name + ", which may be given anything", s.keys.bootstrap})
				}
				parts = append(parts, part{"the arguments of " + name, strings.Join(words, "\n")}, part{"the environment of " + name, strings.Join(variables, "\n")})
			case call == "connect":
				if host := traceHost.FindStringSubmatch(unhex(arguments)); host != nil && !s.mayConnect(host[2], host[1]) {
					parts = append(parts, part{"a connection to " + host[2] + ":" + host[1], s.keys.bootstrap})
				}
				parts = append(parts, part{"the name of a socket", strings.Join(stringsOf(arguments), "\n")})
			case call == "mmap":
				if file := traceFile.FindStringSubmatch(arguments); file != nil && strings.Contains(arguments, "PROT_WRITE") && strings.Contains(arguments, "MAP_SHARED") {
					parts = append(parts, part{"memory that is written to " + unhex(file[1]), s.keys.bootstrap})
				}
			case call == "shmget" && succeeded.MatchString(line): // else nothing is shared
				parts = append(parts, part{"memory that is shared with others", s.keys.bootstrap})
			case call == "copy_file_range" || call == "sendfile" || call == "splice": // by the kernel: what they copy is nowhere in the trace
				files := traceFile.FindAllStringSubmatch(arguments, -1)
				for _, file := range files {
					if info, err := os.Stat(unhex(file[1])); err == nil && info.Mode().IsRegular() {
						content, _ := os.ReadFile(unhex(file[1]))
						parts = append(parts, part{"what is copied from or to " + unhex(file[1]), string(content)})
					}
				}
			case strings.HasPrefix(call, "open") && !strings.Contains(arguments, "O_WRONLY") && !strings.Contains(arguments, "O_RDWR"):
			case strings.Contains(call, "write") || strings.HasPrefix(call, "send"):
				target := "something"
				if match := traceTarget.FindStringSubmatch(arguments); match != nil {
					target = unhex(match[1])
				}
				if strings.HasPrefix(target, "pipe:") || target == os.DevNull {
					continue // the pipes of stdout and stderr are read at the other end, all others are the program's own
				}
				if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "TCP") {
					target = "what is sent unencrypted"
				}
				if written[target] == nil {
					written[target] = &strings.Builder{}
				}
				if unreadable.MatchString(arguments) { // strace needs the right to: the function's memory is closed to its user
					parts = append(parts, part{"what strace may not read", s.keys.bootstrap})
				}
				for _, text := range stringsOf(arguments) {
					written[target].WriteString(withoutRecords(text))
				}
			default:
				if created := traceMode.FindStringSubmatch(arguments); created != nil {
					if mode, err := strconv.ParseUint(created[1], 8, 32); err != nil || mode&0o055 != 0 { // the umask is 022
						public[unhex(created[2])] = true
					}
				}
				names := stringsOf(arguments)
				parts = append(parts, part{"an argument of " + call, strings.Join(names, "\n")})
				if strings.HasPrefix(call, "open") && len(names) > 0 {
					files = append(files, names[0])
				}
			}
		}
	}
	for target, text := range written {
		name := "what is written to " + target
		if public[target] {
			name = "what is written while others may read it, to " + target
		}
		parts = append(parts, part{name, text.String()})
	}
	return parts, files
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
		if text, err := hex.DecodeString(strings.ReplaceAll(quoted, `\x`, "")); i%2 == 1 && err == nil {
			all = append(all, string(text))
		}
	}
	return append(all, "")[:max(1, len(all))]
}

var hexCode = regexp.MustCompile(`\\x[0-9a-f]{2}`)

func unhex(text string) string {
	return hexCode.ReplaceAllStringFunc(text, func(code string) string {
		value, _ := strconv.ParseUint(code[2:], 16, 8)
		return string([]byte{byte(value)})
	})
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
