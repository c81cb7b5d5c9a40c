# frozen_string_literal: true

require 'sinatra/base'

# Says which instance answers, and where it runs.
class Hello < Sinatra::Base
  get '/' do
    content_type 'text/plain'
    "Hello from instance #{ENV.fetch('INSTANCE', '?')} on #{ENV.fetch('MACHINE', '?')}\n"
  end

  get '/health' do
    content_type 'text/plain'
    "ok\n"
  end
end
