"""The model where others call it: behind MLflow, and in the browser.

pyfunc      a bundle as an MLflow model
server      the web application on a port: what `seg serve` runs
app         its routes; answers: what they give, as OpenAPI tells it
guard       who may ask, how much may be sent, the headers of safety
choices     the models that can be chosen
store       uploaded images with their maps, bounded by bytes and age
threads     work beside the event loop, bounded queues before it
uploads     a request's file: its bytes, its name
results     maps -> objects, again for each threshold
views       what the page draws: pictures and labels, reduced if large
downloads   results as files, of one image or of all
page/       the page: HTML, CSS and JavaScript as they are, no build
"""
