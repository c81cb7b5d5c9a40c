# frozen_string_literal: true

require 'sinatra/base'

# A shop with a few pages, some of which fail, so that there is something to
# see in the logs.
class Shop < Sinatra::Base
  set :host_authorization, permitted_hosts: []
  set :show_exceptions, false
  set :raise_errors, false

  before { content_type 'text/plain' }

  get('/health') { "ok\n" }
  get('/') { "Hello from instance #{ENV.fetch('INSTANCE', '?')} on #{ENV.fetch('MACHINE', '?')}\n" }
  get('/cart') { "The cart is empty.\n" }
  get('/search') { "Nothing found.\n" }
  get('/login') { redirect to('/'), 302 }

  get '/slow' do
    sleep rand(0.05..0.3)
    "At last.\n"
  end

  get '/error' do
    halt 500, "Something is broken.\n" if rand < 0.3
    "It works this time.\n"
  end

  not_found { "There is no such page.\n" }
end
