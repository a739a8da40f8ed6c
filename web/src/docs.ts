/** The page `api/docs`: the gateway's OpenAPI document, shown by Swagger UI. */
import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js"
import "swagger-ui-dist/swagger-ui.css"
import "./docs.css"

/** The token of this tab, which the main page stores under this name (self.ts). */
const token = sessionStorage.getItem("pollcast.token")

SwaggerUI({
  domNode: document.getElementById("viewer")!,
  // Relative, because a proxy may publish the gateway below any path.
  url: new URL("../openapi.json", location.href).href,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // nothing is sent elsewhere
  defaultModelsExpandDepth: 0,
  requestInterceptor: (request) => {
    if (token && !request.headers["Authorization"]) request.headers["Authorization"] = `Bearer ${token}`
    return request
  },
})
