package identity

import "testing"

// What a login costs, of a name that is known and of one that is not, with the
// parameters that `sallyport user hash` takes. One that was right is remembered.
func BenchmarkLogin(b *testing.B) {
	for _, algorithm := range []Algorithm{Argon2id, Bcrypt} {
		text, err := Hash([]byte("right horse"), algorithm)
		if err != nil {
			b.Fatal(err)
		}
		users, errs := Parse(map[string]any{"ann": map[string]any{"password": text}})
		if len(errs) > 0 {
			b.Fatal(errs)
		}
		for _, login := range []struct {
			name, user, password string
			verified, anew       bool
		}{
			{"first", "ann", "right horse", true, true}, {"again", "ann", "right horse", true, false},
			{"wrong", "ann", "battery", false, false}, {"unknown", "bob", "battery", false, false},
		} {
			v := NewVerifier(1)
			v.SetUsers(users)
			b.Run(string(algorithm)+"/"+login.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if login.anew {
						v.memory = newMemory()
					}
					r, err := v.Verify(b.Context(), login.user, login.password)
					if err != nil || r.Verified != login.verified {
						b.Fatal(r, err)
					}
				}
			})
		}
	}
}
