package readmetest

import (
	"slices"
	"strings"
	"testing"
	"unicode"
)

// A drawing is text in which lines lead from names to names: a line leaves a name at its right, may
// branch and join, and ends in ▶ before a name.
type drawing [][]rune

type point struct{ row, column int }

// ways are the directions in which a character of a line goes on: left, right, up, down.
var ways = map[rune][4]bool{
	'─': {true, true, false, false}, '│': {false, false, true, true},
	'┌': {false, true, false, true}, '┐': {true, false, false, true}, '└': {false, true, true, false}, '┘': {true, false, true, false},
	'├': {false, true, true, true}, '┤': {true, false, true, true}, '┬': {true, true, false, true}, '┴': {true, true, true, false},
	'┼': {true, true, true, true},
}

var steps = [4]point{{0, -1}, {0, 1}, {-1, 0}, {1, 0}}

// opposite is the way back.
var opposite = [4]int{1, 0, 3, 2}

// readDrawing returns the names in a drawing and its arrows, "from → to".
func readDrawing(text string) (names, arrows []string) {
	var d drawing
	for line := range strings.Lines(text) {
		d = append(d, []rune(strings.TrimRight(line, "\n")))
	}
	seen := map[point]bool{}
	for row := range d {
		for column := 0; column < len(d[row]); column++ {
			if name := d.nameAt(point{row, column}); name != "" {
				names = append(names, name)
				column += len(name)
			}
		}
		for column := range d[row] {
			if start := (point{row, column}); ways[d.at(start)] != [4]bool{} && !seen[start] {
				sources, targets := d.follow(start, seen)
				for _, from := range sources {
					for _, to := range targets {
						arrows = append(arrows, from+" → "+to)
					}
				}
			}
		}
	}
	return names, arrows
}

// at is a character, a space outside of the drawing.
func (d drawing) at(p point) rune {
	if p.row < 0 || p.row >= len(d) || p.column < 0 || p.column >= len(d[p.row]) {
		return ' '
	}
	return d[p.row][p.column]
}

func partOfName(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '/' || r == '-' || r == '.'
}

// nameAt is the name that begins at a point, empty if none does.
func (d drawing) nameAt(p point) string {
	if !partOfName(d.at(p)) || partOfName(d.at(point{p.row, p.column - 1})) {
		return ""
	}
	name := ""
	for ; partOfName(d.at(p)); p.column++ {
		name += string(d.at(p))
	}
	return name
}

// nameBefore is the name that ends left of a point, a space between them.
func (d drawing) nameBefore(p point) string {
	p.column -= 2
	if d.at(point{p.row, p.column + 1}) != ' ' || !partOfName(d.at(p)) {
		return ""
	}
	for partOfName(d.at(point{p.row, p.column - 1})) {
		p.column--
	}
	return d.nameAt(p)
}

// follow goes along all of a line, and returns where it comes from and where it leads.
func (d drawing) follow(start point, seen map[point]bool) (sources, targets []string) {
	for open := []point{start}; len(open) > 0; {
		p := open[0]
		open = open[1:]
		if seen[p] {
			continue
		}
		seen[p] = true
		if from := d.nameBefore(p); ways[d.at(p)][0] && from != "" {
			sources = append(sources, from)
		}
		for way, goes := range ways[d.at(p)] {
			next := point{p.row + steps[way].row, p.column + steps[way].column}
			switch {
			case !goes:
			case ways[d.at(next)][opposite[way]]:
				open = append(open, next)
			case way == 1 && d.at(next) == '▶':
				targets = append(targets, d.nameAt(point{next.row, next.column + 2}))
			}
		}
	}
	return sources, targets
}

func TestDrawingsAreRead(t *testing.T) {
	names, arrows := readDrawing(`
a/x ─┬─▶ b ─────────┐
     ├─▶ c ─────────┼─▶ e ──▶ f
     └─▶ d ──▶ g.h ─┘
loner
`)
	slices.Sort(arrows)
	want := []string{"a/x → b", "a/x → c", "a/x → d", "b → e", "c → e", "d → g.h", "e → f", "g.h → e"}
	if !slices.Equal(arrows, want) || len(names) != 8 {
		t.Errorf("got %v and %v, want %v of 8 names", names, arrows, want)
	}
}
