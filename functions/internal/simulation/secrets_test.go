package simulation

import (
	"strings"
	"time"
)

// Names of kinds that others must not meet.
const (
	lifetimeCut     = "token lifetime cut to 15 minutes"
	clockOff        = "the function's clock 5 minutes off"
	metadataForged  = "metadata forged to a later expiry"
	metadataErased  = "metadata erased or unreadable"
	foreignKey      = "the API key of another account stored"
	keyDeleted      = "the API key deleted"
	keyReplaced     = "the API key replaced"
	bootstrapLate   = "the bootstrap key deleted before it is replaced"
	bootstrapSwap   = "the bootstrap key replaced"
	currentLocked   = "the current version locked"
	previousLocked  = "the previous version locked"
	metadataExpired = "metadata forged to an earlier expiry"
)

// secrets are the faults of people: keys, locks, metadata, settings of the account.
func secrets(expectSet bool) []kind {
	keys := []string{foreignKey, keyDeleted, keyReplaced} // there is one API key secret
	foreign := kind{name: foreignKey, excuse: nextEnsure, span: minutes(5, 180), begin: storeForeignKey, apart: keys}
	if !expectSet {
		// Whose the stored token is, only its metadata tells. Who erases that
		// and swaps the key needs `expect` to be found out.
		foreign.apart = append(foreign.apart, metadataErased)
	}
	return []kind{
		foreign,
		{name: keyDeleted, excuse: nextEnsure, span: minutes(5, 180), begin: deleteKey, apart: keys},
		{name: keyReplaced, span: instant, begin: replaceKey, apart: keys},
		{name: bootstrapLate, excuse: nextEnsure, span: minutes(5, 180), begin: deleteBootstrapKey, apart: []string{bootstrapSwap}},
		{name: bootstrapSwap, span: instant, begin: replaceBootstrapKey},
		{name: currentLocked, excuse: nextEnsure, span: minutes(5, 180), begin: lock("current"), apart: []string{previousLocked}},
		{name: previousLocked, excuse: nextEnsure, span: minutes(5, 180), begin: lock("previous")},
		{name: lifetimeCut, span: minutes(30, 720), begin: cutLifetime},
		{name: clockOff, span: minutes(10, 360), begin: moveClock},
		{name: metadataErased, span: instant, begin: eraseMetadata},
		{name: metadataForged, span: instant, begin: forgeMetadata(4 * time.Hour)},
		{name: metadataExpired, span: instant, begin: forgeMetadata(-4 * time.Hour)},
	}
}

func instant(dice) time.Duration { return 0 }

func nothing() {}

// storeForeignKey puts the key of another account into the key secret, until
// somebody puts the right one back.
func storeForeignKey(w *world, d dice, _ time.Time) func() {
	account := pick(d, "", strings.Repeat("1", 32))
	other := w.cloud.MustCreateAPIKey(w.cloud.MustCreateServiceID("somebody-else", account))
	w.cloud.MustPutVersion(w.keySecret, other, nil)
	return func() { w.cloud.MustPutVersion(w.keySecret, w.workloadKey, nil) }
}

func deleteKey(w *world, _ dice, _ time.Time) func() {
	w.cloud.MustDeleteAPIKey(w.workloadKey)
	return w.newWorkloadKey
}

// replaceKey stores a new key and deletes the old one, in either order of a moment.
func replaceKey(w *world, _ dice, _ time.Time) func() {
	old := w.workloadKey
	w.newWorkloadKey()
	w.cloud.MustDeleteAPIKey(old)
	return nothing
}

func (w *world) newWorkloadKey() {
	key := w.cloud.MustCreateAPIKey(w.workload)
	w.cloud.MustPutVersion(w.keySecret, key, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.workloadKey = key
}

func deleteBootstrapKey(w *world, _ dice, _ time.Time) func() {
	w.cloud.MustDeleteAPIKey(w.bootstrapKey())
	return w.newBootstrapKey
}

func replaceBootstrapKey(w *world, _ dice, _ time.Time) func() {
	old := w.bootstrapKey()
	w.newBootstrapKey()
	w.cloud.MustDeleteAPIKey(old)
	return nothing
}

// lock holds a version of both token secrets.
func lock(version string) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		for _, secret := range w.tokenSecrets() {
			w.cloud.MustLock(secret, version, "held-for-an-audit")
		}
		return func() {
			for _, secret := range w.tokenSecrets() {
				w.cloud.MustUnlock(secret)
			}
		}
	}
}

func cutLifetime(w *world, _ dice, _ time.Time) func() {
	w.setLifetime(15 * time.Minute)
	return func() { w.setLifetime(time.Hour) }
}

func moveClock(w *world, d dice, _ time.Time) func() {
	w.clockOff.Store(int64(pick(d, -5*time.Minute, 5*time.Minute)))
	return func() { w.clockOff.Store(0) }
}

func eraseMetadata(w *world, d dice, _ time.Time) func() {
	w.tamper(pick(d, nil, map[string]any{}, map[string]any{"expiration": "soon"}, map[string]any{"expiration": -1.5}, map[string]any{"run_id": 7}))
	return nothing
}

// forgeMetadata moves the expiration that the current version claims, and
// leaves the rest as it is.
func forgeMetadata(by time.Duration) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		forged := w.cloud.MustCurrent(w.tokenSecret).Metadata
		if forged == nil {
			return nothing
		}
		forged["expiration"] = w.now().Add(by).Unix()
		w.tamper(forged)
		return nothing
	}
}
