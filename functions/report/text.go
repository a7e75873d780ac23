package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// WriteText prints the report for a person: failures first and, of more than one
// result, the totals at the end.
func (r Report) WriteText(w io.Writer) error {
	var text strings.Builder
	for _, failed := range []bool{true, false} {
		for _, result := range r.Results {
			if (result.Outcome == Failed) == failed {
				text.WriteString(result.Text())
			}
		}
	}
	if len(r.Results) > 1 {
		text.WriteString(r.Totals() + "\n")
	}
	if r.KeyRenewal != nil {
		text.WriteString(r.KeyRenewal.Text())
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// Totals counts the outcomes: "12 rotations: 1 failed, 11 rotated".
func (r Report) Totals() string {
	counts := map[Outcome]int{}
	for _, result := range r.Results {
		counts[result.Outcome]++
	}
	var parts []string
	for _, outcome := range []Outcome{Failed, Rotated, Kept, Fresh, AlreadyDone, Checked} {
		if counts[outcome] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[outcome], outcome))
		}
	}
	return Count(len(r.Results), "rotation") + ": " + strings.Join(parts, ", ")
}

// Text is the result for a person: a line, and below it the error and the warnings.
func (r Result) Text() string { return text(r.headline(), r.Error, r.Warnings) }

// Line is the result in one line, without a line end: "default: rotated; the
// stored token expires 2026-01-01T10:00:00Z (in 59m59s); the old one had 10m0s left".
func (r Result) Line() string { return line(r.headline(), r.Error, r.Warnings) }

func text(headline string, failure *Error, warnings []string) string {
	lines := headline + "\n"
	if failure != nil {
		lines += "  " + Printable(failure.Error()) + "\n"
	}
	for _, warning := range warnings {
		lines += "  warning: " + Printable(warning) + "\n"
	}
	return lines
}

func line(headline string, failure *Error, warnings []string) string {
	if failure != nil {
		headline += "; " + Printable(failure.Error())
	}
	if len(warnings) > 0 {
		headline += "; " + Count(len(warnings), "warning")
	}
	return headline
}

func (r Result) headline() string {
	var text strings.Builder
	text.WriteString(Printable(r.Rotation) + ": " + Printable(string(r.Outcome)))
	if r.Attempts > 1 {
		fmt.Fprintf(&text, " after %d attempts", r.Attempts)
	}
	if r.ExpiresAt != nil && r.SecondsRemaining != nil {
		text.WriteString("; the stored token " + Expiry(*r.ExpiresAt, seconds(*r.SecondsRemaining)))
	}
	if r.MarginSeconds != nil {
		if margin := seconds(*r.MarginSeconds); margin < 0 {
			text.WriteString("; the old one had expired " + (-margin).String() + " before")
		} else {
			text.WriteString("; the old one had " + margin.String() + " left")
		}
	}
	return text.String()
}

// Expiry says when a token expires, or since when it has expired:
// "expires 2026-01-01T10:00:00Z (in 59m59s)", "expired 2026-01-01T10:00:00Z (4s ago)".
func Expiry(at time.Time, remaining time.Duration) string {
	if remaining < 0 {
		return fmt.Sprintf("expired %s (%s ago)", at.UTC().Format(time.RFC3339), -remaining)
	}
	return fmt.Sprintf("expires %s (in %s)", at.UTC().Format(time.RFC3339), remaining)
}

// seconds is n seconds, bounded to what a Duration can hold: the JSON may come from anywhere.
func seconds(n int64) time.Duration {
	const century = 100 * 366 * 24 * 3600
	return time.Duration(max(-century, min(n, century))) * time.Second
}

// Count returns "1 rotation", "2 rotations".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Printable makes text that comes from elsewhere safe for a terminal and a line:
// control characters, line ends and invisible characters are shown escaped.
func Printable(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return text
	}
	var safe strings.Builder
	for i, r := range text {
		switch {
		case r == unicode.ReplacementChar && !strings.HasPrefix(text[i:], string(r)):
			fmt.Fprintf(&safe, `\x%02x`, text[i]) // not UTF-8
		case unicode.IsPrint(r):
			safe.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			safe.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return safe.String()
}

// marks are what a person sees of each status.
var marks = map[Status]string{CheckOK: "✓", CheckFailed: "✗", CheckWarning: "!", CheckSkipped: "–"}

// WriteText prints the diagnosis for a person: what failed first, then the other
// checks in their order, a summary at the end.
func (d Diagnosis) WriteText(w io.Writer) error {
	var text strings.Builder
	failed := slices.DeleteFunc(slices.Clone(d.Checks), func(c Check) bool { return c.Status != CheckFailed })
	others := slices.DeleteFunc(slices.Clone(d.Checks), func(c Check) bool { return c.Status == CheckFailed })
	writeChecks(&text, failed)
	if len(failed) > 0 && len(others) > 0 {
		text.WriteByte('\n')
	}
	writeChecks(&text, others)
	text.WriteString(d.summary() + "\n")
	_, err := io.WriteString(w, text.String())
	return err
}

func writeChecks(text *strings.Builder, checks []Check) {
	rotation := ""
	for i := 0; i < len(checks); i++ {
		check := checks[i]
		var same []string // the checks that were skipped for the same reason
		for i+1 < len(checks) && checks[i+1].Status == CheckSkipped && checks[i+1].Rotation == check.Rotation && checks[i+1].Detail == check.Detail {
			i++
			same = append(same, checks[i].Name)
		}
		if check.Rotation != rotation {
			rotation = check.Rotation
			fmt.Fprintf(text, "rotation %s\n", Printable(rotation))
		}
		fmt.Fprintf(text, "%s %-21s %s\n", cmp.Or(marks[check.Status], "?"), Printable(check.Name), Printable(check.Detail))
		if len(same) > 0 {
			fmt.Fprintf(text, "  %-21s nor %s\n", "", Printable(strings.Join(same, ", ")))
		}
		if check.Advice != "" {
			fmt.Fprintf(text, "  %-21s → %s\n", "", Printable(check.Advice))
		}
	}
}

func (d Diagnosis) summary() string {
	failed, warnings := d.Count(CheckFailed), d.Count(CheckWarning)
	switch {
	case failed > 0:
		return fmt.Sprintf("%s failed, %s", Count(failed, "check"), Count(warnings, "warning"))
	case warnings > 0:
		return "nothing failed, " + Count(warnings, "warning")
	default:
		return "nothing is wrong that can be seen without writing"
	}
}
