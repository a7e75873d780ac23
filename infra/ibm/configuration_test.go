package ibm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

type (
	hclBlock = hclsyntax.Block
	hclBody  = hclsyntax.Body
)

// A configuration is the blocks of a folder's *.tf files.
type configuration struct {
	files  map[string]*hclsyntax.Body
	blocks []*hclsyntax.Block
}

func loadConfiguration(t *testing.T) configuration {
	t.Helper()
	paths, err := filepath.Glob("*.tf")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no *.tf files: %v", err)
	}
	c := configuration{files: map[string]*hclsyntax.Body{}}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c.add(t, path, string(source))
	}
	return c
}

func (c *configuration) add(t *testing.T, path, source string) {
	t.Helper()
	file, diagnostics := hclsyntax.ParseConfig([]byte(source), path, hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	body := file.Body.(*hclsyntax.Body)
	c.files[path] = body
	c.blocks = append(c.blocks, body.Blocks...)
}

// ofType returns the blocks of one type: "resource", "variable", "output" and so on.
func (c *configuration) ofType(kind string) []*hclsyntax.Block {
	var blocks []*hclsyntax.Block
	for _, block := range c.blocks {
		if block.Type == kind {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// resource returns one resource block.
func (c *configuration) resource(t *testing.T, resourceType, name string) *hclsyntax.Block {
	t.Helper()
	for _, block := range c.ofType("resource") {
		if slices.Equal(block.Labels, []string{resourceType, name}) {
			return block
		}
	}
	t.Fatalf("no resource %s.%s", resourceType, name)
	return nil
}

// names returns what is declared under a type: variables, or local values.
func (c *configuration) names(kind string) map[string]bool {
	names := map[string]bool{}
	for _, block := range c.ofType(kind) {
		if kind == "locals" {
			for name := range block.Body.Attributes {
				names[name] = true
			}
			continue
		}
		names[block.Labels[0]] = true
	}
	return names
}

// references calls visit with every reference in the configuration: "var", "prefix" and so on.
func (c *configuration) references(visit func(where string, path []string)) {
	for _, body := range c.files {
		_ = hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
			if expression, ok := node.(*hclsyntax.ScopeTraversalExpr); ok {
				visit(expression.SrcRange.String(), path(expression.Traversal))
			}
			if splat, ok := node.(*hclsyntax.SplatExpr); ok { // ibm_x.y[*].attribute
				source, ok := splat.Source.(*hclsyntax.ScopeTraversalExpr)
				each, ok2 := splat.Each.(*hclsyntax.RelativeTraversalExpr)
				if ok && ok2 {
					visit(splat.SrcRange.String(), append(path(source.Traversal), path(each.Traversal)...))
				}
			}
			return nil
		})
	}
}

func path(traversal hcl.Traversal) []string {
	var names []string
	for _, step := range traversal {
		switch step := step.(type) {
		case hcl.TraverseRoot:
			names = append(names, step.Name)
		case hcl.TraverseAttr:
			names = append(names, step.Name)
		}
	}
	return names
}

// literals evaluates a list of strings, or one string, that refers to nothing.
func literals(t *testing.T, body *hclsyntax.Body, name string) []string {
	t.Helper()
	attribute, ok := body.Attributes[name]
	if !ok {
		t.Fatalf("no argument %s", name)
	}
	value, diagnostics := attribute.Expr.Value(nil)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	if value.Type() == cty.String {
		return []string{value.AsString()}
	}
	var list []string
	for _, element := range value.AsValueSlice() {
		list = append(list, element.AsString())
	}
	return list
}

// fault names a problem at a place.
func fault(where, format string, arguments ...any) string {
	return where + ": " + fmt.Sprintf(format, arguments...)
}
