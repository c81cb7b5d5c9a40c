# frozen_string_literal: true

require 'json'
require 'time'

# Writes a line of JSON for each request. A full file is renamed and a new one
# begun; the forwarder follows files, not names.
class AccessLog
  MAX_BYTES = 10 << 20
  KEEP = 5

  def initialize(app, path)
    @app = app
    @path = path
    @mutex = Mutex.new
    open_file
  end

  def call(env)
    begun = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    status, headers, body = @app.call(env)
    # Checks of readiness come each second and tell nothing.
    write(entry(env, status, begun)) unless env['PATH_INFO'] == '/health'
    [status, headers, body]
  end

  private

  def entry(env, status, begun)
    {
      time: Time.now.utc.iso8601(6), status: status, method: env['REQUEST_METHOD'], path: env['PATH_INFO'],
      duration_ms: ((Process.clock_gettime(Process::CLOCK_MONOTONIC) - begun) * 1000).round(2),
      client: env['HTTP_X_REAL_IP'] || env['REMOTE_ADDR'], agent: env['HTTP_USER_AGENT']
    }
  end

  def write(entry)
    line = JSON.generate(entry.transform_values { |v| v.is_a?(String) ? v.dup.force_encoding('UTF-8').scrub : v }) << "\n"
    @mutex.synchronize do
      rotate if @file.size > MAX_BYTES
      @file.syswrite(line) # whole, or not at all
    end
  end

  def rotate
    @file.close
    (KEEP - 1).downto(0) { |i| File.rename("#{@path}.#{i}", "#{@path}.#{i + 1}") if File.exist?("#{@path}.#{i}") }
    File.rename(@path, "#{@path}.0")
    open_file
  end

  def open_file
    @file = File.open(@path, File::WRONLY | File::APPEND | File::CREAT, 0o644)
  end
end
