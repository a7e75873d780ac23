package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"

	"iam-token-rotator/functions/report"
)

// Text of secretLength characters or more may be a key pasted into the wrong place: an AWS key has 40 characters.
const secretLength = 40

// quote returns foreign text in quotes, on one line, with control and direction characters escaped. It does not repeat text
// that is long enough to be a key.
func quote(text string) string {
	if len(text) >= secretLength {
		return fmt.Sprintf("(%d characters, not repeated here)", len(text))
	}
	return strconv.Quote(text)
}

// printable returns foreign text for a terminal: on one line, with control and direction characters escaped.
func printable(text string) string { return report.Printable(text) }

var longWord = regexp.MustCompile(fmt.Sprintf(`[^\s"]{%d,}`, secretLength))

// withoutSecrets is printable, but leaves out words that may be keys or tokens, since an answer or a file may repeat them. It keeps
// ARNs and addresses of hosts.
func withoutSecrets(text string) string {
	return longWord.ReplaceAllStringFunc(printable(text), func(word string) string {
		if strings.HasPrefix(word, "arn:") || strings.HasPrefix(word, "https://") && !strings.ContainsAny(word, "?@") {
			return word
		}
		return quote(word)
	})
}

// withoutCredentials is an environment for programs that need none of this program's keys and tokens.
func withoutCredentials(environ []string, others ...string) []string {
	names := append(others, "IAM_TOKEN", "IBMCLOUD_API_KEY", "SECRETS_MANAGER_APIKEY", "READER_APIKEY", "READER_IAM_TOKEN")
	return slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(names, name)
	})
}

func isTerminal(file any) bool {
	f, ok := file.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colored puts text in the terminal's color codes, unless w is no terminal or NO_COLOR is set.
func (p *program) colored(w io.Writer, color, text string) string {
	if color == "" || p.getenv("NO_COLOR") != "" || p.getenv("TERM") == "dumb" || !p.isTerminal(w) {
		return text
	}
	return color + text + "\x1b[0m"
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
)

// say prints a line of progress.
func (p *program) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, format+"\n", args...)
}

// confirm asks before something that cannot be undone. With --yes it does not ask.
func (p *program) confirm(ctx context.Context, what string) error {
	if p.yes {
		return nil
	}
	fmt.Fprintf(p.stderr, "%s. Continue? [y/N] ", what)
	if p.answers == nil {
		p.answers = bufio.NewReader(p.stdin)
	}
	answer := make(chan string, 1)
	go func() {
		line, _ := p.answers.ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-answer:
		if line == "y" || line == "yes" {
			return nil
		}
	case <-ctx.Done():
	}
	return errors.New("not confirmed: nothing was changed")
}
