package readmetest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Messages in the table of messages are the programs' own.
func TestMessagesAreThePrograms(t *testing.T) {
	said := allMessages(t)
	for _, row := range readme(t).rows(t, "By what you read", "in a message or warning") {
		if message := spans(row[0])[0]; !strings.Contains(said, message) {
			t.Errorf("README.md: nothing of ours says %q", message)
		}
	}
}

// allMessages is the text of the function and of the shell scripts, without the tests.
func allMessages(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := eachFile(func(path string) error {
		full := filepath.Join(root, path)
		switch {
		case strings.HasPrefix(path, "functions/") && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			file, err := parser.ParseFile(token.NewFileSet(), full, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(node ast.Node) bool { return writeMessage(&text, node) })
		case filepath.Dir(path) == "scripts":
			script, err := os.ReadFile(full)
			if err != nil {
				return err
			}
			text.Write(script)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// writeMessage writes a literal text on a line; one that is added up from several is one.
func writeMessage(text *strings.Builder, node ast.Node) (deeper bool) {
	expression, ok := node.(ast.Expr)
	if !ok {
		return true
	}
	if whole := literal(expression); whole != "" {
		text.WriteString(whole + "\n")
		return false
	}
	return true
}

// literal is the text of an expression; of what is computed in it … stands.
func literal(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			whole, _ := strconv.Unquote(e.Value)
			return whole
		}
	case *ast.BinaryExpr:
		left, right := literal(e.X), literal(e.Y)
		if e.Op == token.ADD && left+right != "" {
			return orDots(left) + orDots(right)
		}
	}
	return ""
}

func orDots(text string) string {
	if text == "" {
		return "…"
	}
	return text
}
