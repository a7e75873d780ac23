package aws_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// number reads a whole number that the template may hold as a text.
func number(t *testing.T, value any) int {
	t.Helper()
	n, err := strconv.Atoi(show(value))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	tokenLife     = 60 * time.Minute
	rotateEvery   = 50 * time.Minute
	schedulerLate = time.Minute      // EventBridge Scheduler is accurate to a minute
	onePass       = 10 * time.Second // start of a function and one rotation
)

// minRemaining is MIN_REMAINING for a choice of EnsureEveryMinutes.
func minRemaining(t *testing.T, tmpl object, every string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(at(t, tmpl, "Mappings", "Ensure", every, "MinRemaining").(string))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func minutes(every string) time.Duration {
	d, _ := time.ParseDuration(every + "m")
	return d
}

// oneBatch is how long a batch takes, and by how much a rotation's turn may slip
// from one map to the next.
func oneBatch(t *testing.T, tmpl object) time.Duration {
	batches, _ := mapOf(t, tmpl, "RotateMachine", "5")
	return time.Duration(batches.ItemBatcher.MaxItemsPerBatch*rotateRequests) * time.Second / time.Duration(maxRPS(t, tmpl))
}

// mostRotations is how many rotations a choice of EnsureEveryMinutes has time
// for, a tenth of it kept in hand.
func mostRotations(t *testing.T, tmpl object, every string) int {
	t.Helper()
	rotate, rotateTime := mapOf(t, tmpl, "RotateMachine", every)
	ensure, ensureTime := mapOf(t, tmpl, "EnsureMachine", every)
	rps := float64(maxRPS(t, tmpl))
	rotated := 0.9 * float64(rotateTime*rotate.MaxConcurrency) * rps / rotateRequests
	// A token is rotated with 10 minutes left, 9 if late. Where ensure steps in
	// before that, it publishes that share of the tokens too: two more requests.
	early := max(0, minRemaining(t, tmpl, every)-(tokenLife-rotateEvery-schedulerLate))
	looked := 0.9 * float64(ensureTime*ensure.MaxConcurrency) * rps / (1 + 2*early.Minutes()/rotateEvery.Minutes())
	return int(min(rotated, looked)) / 100 * 100
}

func TestFleetPace(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	want(t, "choices", at(t, tmpl, "Parameters", "EnsureEveryMinutes", "AllowedValues"), ensureChoices)
	want(t, "default", at(t, tmpl, "Parameters", "EnsureEveryMinutes", "Default"), "5")
	variables := at(t, properties(t, tmpl, "Function"), "Environment", "Variables")
	want(t, "MIN_REMAINING", at(t, variables, "MIN_REMAINING"), object{"Fn::FindInMap": []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}, "MinRemaining"}})
	want(t, "ROTATION_INTERVAL", at(t, variables, "ROTATION_INTERVAL"), "50m")
	for _, every := range ensureChoices {
		schedule, least := minutes(every), minRemaining(t, tmpl, every)
		seconds := func(name string) time.Duration { return time.Duration(pace(t, tmpl, every, name)) * time.Second }
		want(t, every+" schedule", at(t, tmpl, "Mappings", "Ensure", every, "Schedule"), "cron(2/"+every+" * * * ? *)")
		want(t, every+" timeout", seconds("TimeoutSeconds"), schedule-schedulerLate)
		want(t, every+" period", seconds("StoredLifePeriod"), schedule+2*time.Minute)
		want(t, every+" silence", minutes(show(pace(t, tmpl, every, "SilentMinutes"))), schedule+2*time.Minute)
		if least <= seconds("ShortLife") {
			t.Errorf("every %s: a token is left alone with %v, but the alarm rings below %v", every, least, seconds("ShortLife"))
		}
		if every == "30" { // without a promise
			continue
		}
		want(t, every+" short life", seconds("ShortLife"), schedule+time.Minute)
		want(t, every+" MIN_REMAINING", least, schedule+4*time.Minute)
		if left := lostRun(t, tmpl, every); left <= 0 {
			t.Errorf("every %s: after one lost rotation %v are left, want more than none", every, left)
		}
		if rings := minutes(show(pace(t, tmpl, every, "SilentMinutes"))) + time.Minute; rings >= least {
			t.Errorf("every %s: silence is heard after %v, but a token may live no more than %v", every, rings, least)
		}
	}
	_, rotateTime := mapOf(t, tmpl, "RotateMachine", "5")
	want(t, "rotate timeout", time.Duration(rotateTime)*time.Second, rotateEvery-schedulerLate)
}

// lostRun is the life left at worst in a token whose rotation was lost.
func lostRun(t *testing.T, tmpl object, every string) time.Duration {
	return minRemaining(t, tmpl, every) - minutes(every) - schedulerLate - oneBatch(t, tmpl) - onePass
}

func clock(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "−", -d
	}
	return fmt.Sprintf("%s%d:%02d", sign, int(d.Minutes()), int(d.Seconds())%60)
}

// The page's table of limits is the template's arithmetic.
func TestFleetLimitsAreTheTemplates(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	without := tokenLife - rotateEvery - schedulerLate - oneBatch(t, tmpl) - onePass
	for _, every := range ensureChoices {
		row := fmt.Sprintf("| %s | %d | %d min | %s | %s |", every, mostRotations(t, tmpl, every), int(minRemaining(t, tmpl, every).Minutes()), clock(without), clock(lostRun(t, tmpl, every)))
		if !strings.Contains(string(page), row) {
			t.Errorf("README.md has no row %s", row)
		}
	}
}
