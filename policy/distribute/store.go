package distribute

import (
	"context"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// store is what OPA's plugins write bundles to. Its commits have to pass the
// gate: OPA keeps store, compiler and the bundle before where a commit fails, and
// reports the error as its own.
//
// The store under it is OPA's own, of Go values. A decision never reads it: the
// engine makes its own values of them while nobody may write.
type store struct {
	storage.Store
	gate    func(context.Context, *commit) error
	writing atomic.Pointer[writing] // the store has one writer at a time
}

// writing is what a write transaction was opened with.
type writing struct {
	id      uint64
	context *storage.Context
}

// commit is a transaction that wants to be committed.
type commit struct {
	store    *store
	txn      storage.Transaction
	compiler *ast.Compiler // of a bundle that is to be activated; nil: nothing is
}

func newStore(gate func(context.Context, *commit) error) *store {
	// What bundles hold is JSON that was just decoded, and nobody else has it.
	return &store{Store: inmem.NewWithOpts(inmem.OptRoundTripOnWrite(false)), gate: gate}
}

func (s *store) NewTransaction(ctx context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	txn, err := s.Store.NewTransaction(ctx, params...)
	if err == nil && len(params) > 0 && params[0].Write {
		s.writing.Store(&writing{txn.ID(), params[0].Context})
	}
	return txn, err
}

// Commit asks the gate. [storage.Txn] does not abort what cannot be committed.
func (s *store) Commit(ctx context.Context, txn storage.Transaction) error {
	w := s.writing.Load()
	if w == nil || w.id != txn.ID() {
		return s.Store.Commit(ctx, txn)
	}
	s.writing.CompareAndSwap(w, nil) // it holds a compiler
	return s.gate(ctx, &commit{store: s, txn: txn, compiler: plugins.GetCompilerOnContext(w.context)})
}

func (s *store) Abort(ctx context.Context, txn storage.Transaction) {
	if w := s.writing.Load(); w != nil && w.id == txn.ID() {
		s.writing.CompareAndSwap(w, nil)
	}
	s.Store.Abort(ctx, txn)
}

// Register spares the triggers, which don't look at it, a copy of all data.
func (s *store) Register(ctx context.Context, txn storage.Transaction, c storage.TriggerConfig) (storage.TriggerHandle, error) {
	c.SkipDataConversion = true
	return s.Store.Register(ctx, txn, c)
}

// MakeDir is the store's own, which does not copy what is below the path.
func (s *store) MakeDir(ctx context.Context, txn storage.Transaction, path storage.Path) error {
	return s.Store.(storage.MakeDirer).MakeDir(ctx, txn, path)
}

// apply commits, abort gives up.
func (c *commit) apply(ctx context.Context) error { return c.store.Store.Commit(ctx, c.txn) }
func (c *commit) abort(ctx context.Context)       { c.store.Store.Abort(ctx, c.txn) }
