package distribute

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	filelogger "github.com/open-policy-agent/opa/v1/plugins/logger/file"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"gopkg.in/natefinch/lumberjack.v2"
)

// fileLogger is the name of OPA's plugin for a log file that is rotated. Its
// configuration is ours, and so is the library that rotates. Not the plugin: it
// tells nobody that a write has failed, leaves half a line where the disk is
// full, and adds members to OPA's events.
const fileLogger = filelogger.Name

// logFile is a decision log file. A new one has mode 0600, those that are moved
// aside keep theirs.
type logFile struct {
	path  *lumberjack.Logger
	lines wholeLines
	most  int64
}

func newFile(c *filelogger.Config) *logFile {
	f := &logFile{path: &lumberjack.Logger{
		Filename: c.Path, MaxSize: c.MaxSize, MaxAge: c.MaxAge, MaxBackups: c.MaxBackups, Compress: c.Compress,
	}, most: int64(c.MaxSize) << 20}
	f.lines.out = f.path
	return f
}

func (f *logFile) write(line []byte) error {
	_, err := f.lines.Write(line)
	return err
}

// Log writes an event that policies have masked.
func (f *logFile) Log(_ context.Context, e logs.EventV1) error {
	line, err := encoded(&e)
	if err != nil {
		return err
	}
	return f.write(line)
}

// Start, Stop and Reconfigure make it a plugin of OPA's.
func (f *logFile) Start(context.Context) error      { return nil }
func (f *logFile) Stop(context.Context)             { f.path.Close() }
func (f *logFile) Reconfigure(context.Context, any) {}

// encoded is a value as a line of JSON.
func encoded(of any) ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // ends with a line break, and escapes those within
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(of)
	return line.Bytes(), err
}

// wholeLines writes whole lines. What a failed write has left of one is ended by a
// line break before the next, so that it spoils no other.
type wholeLines struct {
	out  io.Writer
	torn bool
}

func (l *wholeLines) Write(line []byte) (int, error) {
	if l.torn {
		if _, err := l.out.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		l.torn = false
	}
	n, err := l.out.Write(line)
	if err != nil && n > 0 && line[n-1] != '\n' {
		l.torn = true
	}
	return n, err
}
