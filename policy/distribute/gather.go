package distribute

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// What one policy may consist of, however many sources it has.
const (
	maxFiles   = 10_000
	maxBytes   = 256 << 20 // unpacked
	maxNesting = 128       // objects and arrays of a document, one in another
	maxFolders = 64        // one in another
)

const patchFile = "patch.json" // of a delta bundle

func isRego(path string) bool { return strings.HasSuffix(path, bundle.RegoExt) }

// isData tells of JSON and YAML, encrypted or not.
func isData(path string) bool {
	path = plainName(path)
	return strings.HasSuffix(path, ".json") || bundle.IsYAMLFile(path)
}

const encryptedExt = ".age"

func isEncrypted(path string) bool { return strings.HasSuffix(path, encryptedExt) }

// plainName is a file's name as it would be if it were not encrypted.
func plainName(path string) string { return strings.TrimSuffix(path, encryptedExt) }

func isManifest(f file) bool {
	return filepath.Base(f.path) == bundle.ManifestExt && len(f.place) == 0
}

// isPolicy tells by its name whether a file below a directory or in a bundle is
// part of the policy.
func isPolicy(name string) bool {
	return isDataFile(name) || isRego(name)
}

func isDataFile(name string) bool {
	switch name {
	case "data.json", "data.yaml", "data.yml":
		return true
	}
	return false
}

// isEncryptedData tells of the same in a directory alone: what is in a bundle is
// not decrypted.
func isEncryptedData(name string) bool { return isEncrypted(name) && isDataFile(plainName(name)) }

// isBundle tells by its name whether a file means something in a bundle.
func isBundle(name string) bool {
	switch name {
	case bundle.WasmFile, bundle.PlanFile, bundle.PlanProtoFile, patchFile:
		return true
	}
	return isEncryptedData(name) || strings.HasSuffix(name, bundle.ManifestExt) || strings.HasSuffix(name, bundle.ManifestProtoExt)
}

// hidden tells whether a directory's entry is left out.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") && name != bundle.ManifestExt && name != bundle.ManifestProtoExt
}

// walk reads the files of a directory and of those below it, in order of name.
// Symbolic links are followed.
func (l *loading) walk(root string, inBundle bool) []file {
	var files []file
	var folder func(path string, place []string, above []fs.FileInfo)
	folder = func(path string, place []string, above []fs.FileInfo) {
		info, err := os.Stat(path)
		if err != nil {
			l.fail(path, err)
			return
		}
		if slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, info) }) {
			l.refuse(path, "leads back to a folder that it is in")
			return
		}
		if len(above) == maxFolders {
			l.refuse(path, fmt.Sprintf("is more than %d folders deep", maxFolders))
			return
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			l.fail(path, err)
			return
		}
		above = append(slices.Clip(above), info)
		for _, entry := range entries {
			if hidden(entry.Name()) || l.files < 0 {
				continue
			}
			at := filepath.Join(path, entry.Name())
			info, err := os.Stat(at)
			switch {
			case err != nil:
				l.fail(at, err)
			case info.IsDir():
				// Links can make a tree without an end out of few folders.
				if l.count(at) {
					folder(at, append(slices.Clip(place), entry.Name()), above)
				}
			case inBundle && isEncryptedData(entry.Name()):
				l.refuse(at, encryptedRefused)
			case isPolicy(entry.Name()), isEncryptedData(entry.Name()), inBundle && isBundle(entry.Name()):
				if f, ok := l.read(at, place); ok {
					files = append(files, f)
				}
			case isData(entry.Name()):
				l.candidate.LeftOut = append(l.candidate.LeftOut, at)
			}
		}
	}
	folder(root, nil, nil)
	return files
}

// read reads a file.
func (l *loading) read(path string, place []string) (file, bool) {
	f, ok := l.open(path)
	if !ok {
		return file{}, false
	}
	defer f.Close()
	text, ok := l.text(path, f)
	if ok && isEncrypted(path) {
		text, ok = l.plain(path, text)
	}
	return file{path: path, place: place, text: text}, ok
}

func (l *loading) plain(path string, text []byte) ([]byte, bool) {
	if l.decrypt == nil {
		l.refuse(path, "is encrypted, and nothing decrypts it here")
		return nil, false
	}
	plain, err := l.decrypt(text)
	if err != nil {
		l.refuse(path, err.Error())
	}
	return plain, err == nil
}

func (l *loading) open(path string) (*os.File, bool) {
	if !l.count(path) {
		return nil, false
	}
	// A pipe would make the opening wait for somebody to write.
	info, err := os.Stat(path)
	if err != nil {
		l.fail(path, err)
		return nil, false
	}
	if !info.Mode().IsRegular() {
		l.refuse(path, "is not a regular file")
		return nil, false
	}
	f, err := os.Open(path)
	if err != nil {
		l.fail(path, err)
		return nil, false
	}
	return f, true
}

// unpack reads the files of a bundle.
func (l *loading) unpack(archive string) ([]file, bool) {
	packed, ok := l.open(archive)
	if !ok {
		return nil, false
	}
	defer packed.Close()
	var files []file
	ok = l.entries(archive, packed, func(f file, content io.Reader) bool {
		var ok bool
		f.text, ok = l.text(f.path, content)
		files = append(files, f)
		return ok
	})
	return files, ok
}

// entries shows the files of an archive that mean something in a bundle, while
// show says yes. It gives up at the first thing that is wrong with the archive,
// and tells whether nothing was.
func (l *loading) entries(archive string, packed io.Reader, show func(f file, content io.Reader) bool) bool {
	unzip, err := gzip.NewReader(packed)
	if err != nil {
		l.refuse(archive, "is not a bundle: "+err.Error())
		return false
	}
	// Headers, padding and files that mean nothing come on top of the policy.
	bounded := &io.LimitedReader{R: unzip, N: 2 * l.bytes}
	entries := tar.NewReader(bounded)
	seen := map[string]bool{}
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			// The checksum is behind the end of the archive.
			if _, err = io.Copy(io.Discard, bounded); err == nil && bounded.N > 0 {
				return true
			}
		}
		switch {
		case err != nil && bounded.N == 0, err == nil && header.Size > bounded.N:
			l.refuse(archive, tooLarge())
			return false
		case err != nil:
			l.refuse(archive, "is not a whole bundle: "+err.Error())
			return false
		}
		inside := path.Clean("/" + header.Name)
		at := archive + ":" + inside
		switch {
		case header.Typeflag == tar.TypeDir:
			continue
		case !l.count(at):
			return false
		case header.Typeflag != tar.TypeReg:
			l.refuse(at, "is not a regular file")
			return false
		case seen[inside]:
			l.refuse(at, "is in the bundle twice")
			return false
		}
		seen[inside] = true
		if name := path.Base(inside); !isPolicy(name) && !isBundle(name) {
			continue
		}
		if header.Size > l.bytes {
			l.refuse(at, tooLarge())
			return false
		}
		var place []string
		if folder := strings.Trim(path.Dir(inside), "/"); folder != "" {
			place = strings.Split(folder, "/")
		}
		if !show(file{path: at, place: place}, entries) {
			return false
		}
	}
}

func (l *loading) text(path string, r io.Reader) ([]byte, bool) {
	text, err := io.ReadAll(io.LimitReader(r, l.bytes+1))
	if err != nil {
		l.fail(path, err)
		return nil, false
	}
	if int64(len(text)) > l.bytes {
		l.bytes = 0
		l.refuse(path, tooLarge())
		return nil, false
	}
	l.bytes -= int64(len(text))
	return text, true
}

// count counts one more file or folder, and tells whether there may be one.
func (l *loading) count(path string) bool {
	l.files--
	if l.files == -1 {
		l.refuse(path, fmt.Sprintf("is more than the %d files and folders that a policy may have", maxFiles))
	}
	return l.files >= 0
}

func tooLarge() string {
	return fmt.Sprintf("is more than the %d MiB that a policy may have", maxBytes>>20)
}
