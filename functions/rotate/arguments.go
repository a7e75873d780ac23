package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
)

// parseFlags parses arguments that are options alone. The errors of package flag
// repeat what was given, and somebody will give a key: words too long to be an
// option's are left out.
func parseFlags(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		words := strings.Fields(err.Error())
		for i, word := range words {
			if len(word) > len(`"command-options"`) {
				words[i] = "…"
			}
		}
		return errors.New(strings.Join(words, " "))
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %s", short(flags.Arg(0)))
	}
	return nil
}
